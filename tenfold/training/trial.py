"""A recipe tried out in a process of its own: `python -m tenfold.training.trial` with a request on standard input.

Every epoch's validation accuracy becomes a line of JSON on standard output, so that a search may watch, and end it. The
test images are never looked at, and nothing is written.
"""

import json
import os
import sys
from typing import Any

from tenfold.data import load
from tenfold.errors import TenfoldError, is_memory
from tenfold.files import parse_object
from tenfold.training.device import select_device
from tenfold.training.recipe import Recipe
from tenfold.training.trainer import Trainer, fit, split

KILLED = 137


def run(request: dict[str, Any]) -> None:
    """Train as `request` says: recipe (JSON, as text), data, size, resize, skip_bad, device, seed. Raises as `fit`."""
    parent, told = os.getppid(), 0
    names = ("size", "resize", "seed", "skip_bad")
    dataset = load(request["data"], **{name: request[name] for name in names})
    recipe = Recipe.from_json(request["recipe"], "trial")
    train, val = split(dataset.train, recipe, request["seed"])

    def watch(trainer: Trainer) -> None:
        nonlocal told
        if os.getppid() != parent:  # the search was killed
            sys.exit(1)
        for row in trainer.epochs[told:]:
            print(json.dumps({name: row[name] for name in ("epoch", "val_accuracy")}), flush=True)
        told = len(trainer.epochs)

    plan = select_device(request["device"])
    fit(recipe, train, len(dataset.classes), val=val, seed=request["seed"], plan=plan, on_step=watch)


if __name__ == "__main__":
    try:
        run(parse_object(sys.stdin.buffer.read()))
    except TenfoldError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except (MemoryError, RuntimeError) as error:
        if not is_memory(error):
            raise
        print("out of memory", file=sys.stderr)
        sys.exit(KILLED)  # as if the kernel had seen to it: other trials may need less
