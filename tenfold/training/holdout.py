"""Which training images are held out for validation."""

import numpy as np
import torch

from tenfold.data.dataset import Split
from tenfold.errors import DataError, UsageError
from tenfold.training.augment import make_generator
from tenfold.training.recipe import Recipe


def split(train: Split, recipe: Recipe, seed: int) -> tuple[Split, Split | None]:
    """Hold out the recipe's validation images. Raises `UsageError` or `DataError` where nothing is left to train on."""
    if len(train) == 0:
        raise DataError("there are no training images")
    if recipe.val_size >= len(train):
        left = f"a validation set of {recipe.val_size} leaves nothing of {len(train)} training images"
        raise UsageError(f"{left}: choose a smaller one (--val-size)")
    if not recipe.val_size:
        return train, None
    if recipe.val_split == "last":
        return train[: -recipe.val_size], train[-recipe.val_size :]
    order = torch.randperm(len(train), generator=make_generator(seed, "split")).numpy()
    return train[np.sort(order[: -recipe.val_size])], train[np.sort(order[-recipe.val_size :])]
