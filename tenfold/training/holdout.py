"""Which training images are held out for validation."""

import numpy as np
import torch

from tenfold.console import log_info
from tenfold.data.dataset import Dataset, Split
from tenfold.data.groups import draw_groups, unite
from tenfold.errors import DataError, UsageError
from tenfold.training.augment import make_generator
from tenfold.training.recipe import Recipe


def split(data: Dataset, recipe: Recipe, seed: int) -> tuple[Split, Split | None]:
    """Training images, and those that are held out: the data set's own, or as many as the recipe says.

    Of images in groups whole groups are held out, so that there are about as many. Raises `UsageError` or `DataError`
    where nothing is left to train on.
    """
    train, count = data.train, data.val_size or recipe.val_size
    if len(train) == 0:
        raise DataError("there are no training images")
    if count >= len(train):
        left = f"a validation set of {count} leaves nothing of {len(train)} training images"
        raise UsageError(f"{left}: choose a smaller one (--val-size)")
    if not count:
        return train, None
    if train.groups is not None and not data.val_size:
        held_out = _draw_groups(train, count, seed)
        return train[~held_out], train[held_out]
    if data.val_size or recipe.val_split == "last":
        return train[:-count], train[-count:]
    order = torch.randperm(len(train), generator=make_generator(seed, "split")).numpy()
    return train[np.sort(order[:-count])], train[np.sort(order[-count:])]


def _draw_groups(train: Split, count: int, seed: int) -> np.ndarray:
    assert train.groups is not None
    contents = [str(row) for row in range(len(train))] if train.digests is None else train.digests.tolist()
    groups = unite(train.groups.tolist(), contents)
    names = [group or content for group, content in zip(train.groups.tolist(), contents, strict=True)]
    held_out = draw_groups(train.labels, groups, names, count / len(train), f"validation/{seed}")
    if not held_out.any():
        raise DataError("each class is in a single group, so none can be held out: leave --val-size out")
    return held_out


def log_groups(recipe: Recipe, held_out: int) -> None:
    """Log how many images are held out where whole groups of them are others than asked for."""
    if held_out != recipe.val_size:
        log_info(f"{held_out:,} validation images instead of {recipe.val_size:,}: whole groups are held out")
