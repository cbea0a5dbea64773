"""The recipe that a run gets: found by name or file, and fitted to what it is to be trained on."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch

from tenfold.console import log_info
from tenfold.data import is_folder
from tenfold.data.dataset import Dataset
from tenfold.errors import UsageError, did_you_mean
from tenfold.training.augment import Normalization, channel_stats
from tenfold.training.device import DeviceConfig, select_device
from tenfold.training.images import ImageTensor
from tenfold.training.imbalance import fit_recipe
from tenfold.training.precision import find_dtype
from tenfold.training.recipe import USUAL_SIDE, FineTune, Recipe
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


def size_for(recipe: str | Path | Recipe, data: object, size: int | None = None) -> int:
    """Pixels a side that images are read at: `size`, or what the recipe's network is for where `data` is a folder."""
    if size is not None:
        return size
    of_folder = isinstance(data, str | Path) and is_folder(str(data))
    return as_recipe(recipe).network.usual_size if of_folder else USUAL_SIDE


def with_fine_tuning(recipe: str | Path | Recipe, fine_tune: FineTune | None) -> Recipe:
    """The recipe with another `fine_tune`, where one is asked for. Raises `UsageError` for a recipe that has none."""
    chosen = as_recipe(recipe)
    if fine_tune is None:
        return chosen
    if fine_tune not in get_args(FineTune):
        raise UsageError(
            f"fine_tune must be auto, on or off, not {fine_tune!r}{did_you_mean(fine_tune, get_args(FineTune))}"
        )
    if chosen.head_init != "logistic":
        raise UsageError(
            f"recipe {chosen.name} trains from scratch: leave --fine-tune out, or choose --recipe pretrained"
        )
    return replace(chosen, fine_tune=fine_tune)


def always_fine_tuned(recipe: str | Path | Recipe) -> Recipe:
    """The recipe with `fine_tune` on, for what looks at its stages: a search."""
    return replace(as_recipe(recipe), fine_tune="on")


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


def device_for(recipe: Recipe, device: str = "auto", dtype: str = "auto") -> DeviceConfig:
    """As `select_device`, in the number format of that name, or the fastest one for the recipe's network."""
    if (asked := find_dtype(dtype)) is not None:
        return select_device(device, asked)
    chosen = select_device(device)
    if not recipe.network.float32_on_cpu or chosen.device.type != "cpu" or chosen.dtype == torch.float32:
        return chosen
    return select_device(device, torch.float32, f"{recipe.network.name} is trained faster in it on a CPU")


def normalization_for(recipe: Recipe, images: ImageTensor) -> Normalization:
    """What the recipe's network was made for, or what the training images (uint8 N×H×W×3) have."""
    if recipe.network.normalization:
        return Normalization(*recipe.network.normalization)
    return channel_stats(images) if recipe.normalize else Normalization()
