"""The recipe that a run gets: found by name or file, and fitted to what it is to be trained on."""

from pathlib import Path

from tenfold.console import log_info
from tenfold.data.dataset import Dataset
from tenfold.errors import UsageError
from tenfold.training.imbalance import fit_recipe
from tenfold.training.recipe import Recipe
from tenfold.training.recipe_files import find_recipe


def choose_recipe(
    recipe: str | Path | Recipe,
    epochs: float | None,
    val_size: int | None,
    dataset: Dataset | None = None,
    size: int = 32,
) -> Recipe:
    """Find the recipe of that name or file, changed as `epochs` and `val_size` ask.

    It is fitted to the number of images and the rare classes of a `dataset`, and to the `size` of its images.

    Raises `UsageError`.
    """
    chosen = as_recipe(recipe).for_size(size)
    chosen = chosen if dataset is None else fit_recipe(chosen, dataset.train, dataset.val_size)
    chosen = chosen if epochs is None else chosen.with_epochs(epochs)
    return chosen if val_size is None else chosen.with_val_size(val_size)


def as_recipe(recipe: str | Path | Recipe) -> Recipe:
    """The recipe itself, or that of a name or file. Raises `UsageError`."""
    if isinstance(recipe, Recipe):
        return recipe
    if not isinstance(recipe, str | Path):
        raise UsageError(f"recipe must be a name, a path or a tenfold.Recipe, not {type(recipe).__name__}")
    return find_recipe(str(recipe))


def log_size(recipe: str | Path | Recipe, size: int) -> None:
    """Log how the recipe is fitted to images of `size` pixels a side, if it is."""
    usual = as_recipe(recipe)
    if changes := usual.changes(usual.for_size(size)):
        log_info(f"recipe fitted to images of {size} pixels: {changes}")
