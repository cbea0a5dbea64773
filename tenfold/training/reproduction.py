"""The command that repeats a run."""

import shlex

from tenfold.data import DATASETS, Origin
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


def reproduction(
    recipe: Recipe, seed: int, data: str, origin: Origin | None, target_error: float, corrected: bool = False
) -> str:
    """The command that trains this run again on data of that name: by the recipe's name where that suffices.

    target_error: what the run's threshold is to keep (`target_error_of`). corrected: whether the run has a
    corrections.csv. For a data set made in Python, which no
    command can load, it is the call.
    """
    named = RECIPES.get(recipe.name)
    options = ""
    if named and named != recipe:
        if named.val_size != recipe.val_size:
            named, options = named.with_val_size(recipe.val_size), f" --val-size {recipe.val_size}"
        if named.epochs != recipe.epochs:
            named, options = named.with_epochs(recipe.epochs), f"{options} --epochs {recipe.epochs!r}"
    source, options = (recipe.name, options) if named == recipe else ("recipe.json", "")
    usual = target_error == TARGET_ERROR
    if not usual:
        options += f" --target-error {target_error!r}"
    if corrected:
        options += " --corrections corrections.csv"
    if origin:
        options += f" {shlex.join(origin.options())}"
    elif data not in DATASETS:
        more = "" if usual else f", target_error={target_error!r}"
        more += ', corrections="corrections.csv"' if corrected else ""
        return f'tenfold.train(tenfold.find_recipe("recipe.json"), dataset, Path("again"), seed={seed}{more})'
    return f"tenfold train --recipe {source} --data {shlex.quote(data)} --seed {seed}{options}"
