"""A recipe tried out in a process of its own: `python -m tenfold.training.trial` with a request on standard input.

Every epoch's validation accuracy becomes a line of JSON on standard output, so that a search may watch, and end it. The
test images are never looked at, and nothing is written.
"""

import json
import os
import sys
from typing import Any

from tenfold.data import load
from tenfold.errors import TenfoldError, Terminated, is_memory
from tenfold.files import parse_object
from tenfold.training.callbacks import Callback, EpochMetrics
from tenfold.training.recipe import Recipe
from tenfold.training.trainer import Trainer

KILLED = 137


class ReportTrial(Callback):
    """Prints every epoch's validation accuracy, and ends the trial when the search is gone."""

    def __init__(self) -> None:
        self.parent = os.getppid()

    def on_step_end(self, trainer: Trainer) -> None:
        """End where the search was killed."""
        if os.getppid() != self.parent:
            sys.exit(1)

    def on_epoch_end(self, trainer: Trainer, metrics: EpochMetrics) -> None:
        """Print one line of JSON."""
        print(json.dumps({"epoch": metrics.epoch, "val_accuracy": metrics.val_accuracy}), flush=True)


def run(request: dict[str, Any]) -> None:
    """Train as `request` says: recipe (JSON, as text), data, size, resize, skip_bad, device, seed, perhaps labels.

    Raises as `Trainer.fit`.
    """
    report = ReportTrial()
    names = ("size", "resize", "seed", "skip_bad")
    labels = {"labels": request.get("labels") or None, "label_columns": request.get("label_columns", "")}
    dataset = load(request["data"], **{name: request[name] for name in names}, **labels)
    recipe = Recipe.from_json(request["recipe"], "trial")
    Trainer(recipe, dataset, [report], seed=request["seed"], device=request["device"]).fit()


if __name__ == "__main__":
    try:
        run(parse_object(sys.stdin.buffer.read()))
    except TenfoldError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except Terminated as signalled:
        sys.exit(signalled.exit_code)
    except (MemoryError, RuntimeError) as error:
        if not is_memory(error):
            raise
        print("out of memory", file=sys.stderr)
        sys.exit(KILLED)  # as if the kernel had seen to it: other trials may need less
