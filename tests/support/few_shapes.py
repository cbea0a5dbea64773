"""The data set `shapes` with fewer images than users get, for speed.

Not fewer than 2,000 to train on: below that, recipes fitted to the data leave out what they have for larger sets.
"""

from dataclasses import replace
from functools import cache

import pytest

from tenfold.data import DATASETS
from tenfold.data.dataset import Dataset
from tenfold.data.shapes import make_shapes

TRAIN, TEST = 2000, 500


def few_shapes(size: int = 32, test: int = TEST) -> Dataset:
    """Drawn once a process, so that nobody may write into it."""
    return _draw(size, test)


@cache
def _draw(size: int, test: int) -> Dataset:
    dataset = make_shapes(train=TRAIN, test=test, size=size)
    for split in (dataset.train, dataset.test):
        split.images.setflags(write=False)
        split.labels.setflags(write=False)
    return dataset


def use_few_shapes(patch: pytest.MonkeyPatch, size: int = 32, test: int = TEST) -> None:
    """Let the name `shapes` mean them in this process."""
    entry = DATASETS._entries["shapes"]
    few = replace(entry.value, make=lambda: few_shapes(size, test), shape=(size, size, 3), train=TRAIN, test=test)
    patch.setitem(DATASETS._entries, "shapes", replace(entry, value=few))
