"""The command that repeats a run."""

import shlex
from collections.abc import Callable
from pathlib import Path

from tenfold.data import DATASETS, Origin
from tenfold.data.corrections import CORRECTIONS
from tenfold.training.recipe import Recipe
from tenfold.training.recipes import RECIPES
from tenfold.training.run import STOPPED, Run
from tenfold.training.target_error import TARGET_ERROR


def format_stop(run: Run) -> str:
    """How a callback ended training early, and what `reproduction` does instead; empty where it did not."""
    stopped = run.env.get(STOPPED)
    if stopped is None:
        return ""
    return (
        f"A callback stopped training at epoch {stopped:g} of {run.recipe.epochs:g}. The command trains all of them, "
        "so its weights are others; for the same weights, call tenfold.train with the same callbacks."
    )


KEPT_CORRECTIONS = Path(CORRECTIONS)
"""A run's copy of its corrections, in its directory."""


def by_name(path: Path) -> str:
    """How a card that travels names a file: without its folder, which is private."""
    return path.name


def made_in(run: Path, noted: str) -> Path:
    """The folder in which a run was made, by the path that it noted; of one that moved, the folder that it is in."""
    there, parts = run.resolve(), Path(noted).parts
    below = not Path(noted).is_absolute() and there.parts[-len(parts) :] == parts
    return there.parents[len(parts) - 1] if below else there.parent


def reproduction(
    recipe: Recipe,
    seed: int,
    data: str,
    origin: Origin | None,
    target_error: float,
    corrections: Path | None = None,
    recipe_file: Path = Path("recipe.json"),
    name: Callable[[Path], str] = by_name,
) -> str:
    """The command that trains this run again on data of that name: by the recipe's name where that suffices.

    target_error: what the run's threshold is to keep (`target_error_of`). corrections: a file of them. name: how files
    and the folder of images are written. For a data set made in Python, which no command can load, it is the call.
    """
    named = RECIPES.get(recipe.name)
    options = ""
    if named and named != recipe:
        if named.val_size != recipe.val_size:
            named, options = named.with_val_size(recipe.val_size), f" --val-size {recipe.val_size}"
        if named.epochs != recipe.epochs:
            named, options = named.with_epochs(recipe.epochs), f"{options} --epochs {recipe.epochs!r}"
    source, options = (recipe.name, options) if named == recipe else (shlex.quote(name(recipe_file)), "")
    usual = target_error == TARGET_ERROR
    if not usual:
        options += f" --target-error {target_error!r}"
    if corrections:
        options += f" --corrections {shlex.quote(name(corrections))}"
    if origin:
        options += f" {shlex.join(origin.options(name))}"
        data = data if name is by_name else name(Path(origin.path))
    elif data not in DATASETS:
        more = "" if usual else f", target_error={target_error!r}"
        more += f', corrections="{name(corrections)}"' if corrections else ""
        return f'tenfold.train(tenfold.find_recipe("{name(recipe_file)}"), dataset, Path("again"), seed={seed}{more})'
    return f"tenfold train --recipe {source} --data {shlex.quote(data)} --seed {seed}{options}"
