"""Named data sets: one declarative entry each, and the registry of all."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tenfold.data.dataset import Dataset
from tenfold.data.decoders import Arrays
from tenfold.errors import DataError, UsageError
from tenfold.registry import Registry


@dataclass(frozen=True, kw_only=True)
class DatasetEntry:
    """All that is to be known of a named data set.

    Either `make` generates it, or `read` decodes a copy on disk, and the cache keeps the arrays: train_images,
    test_images (uint8 N×H×W×3) and train_labels, test_labels (uint8 N). Raises `UsageError` for a name that could be a
    path, and unless one of both is given.

    title: what people call it. shape: height, width and channels of its images as they are used. train, test: numbers
    of images. sources: addresses and packages, for people. format: of the published files. sha256: of each array's
    bytes, in hexadecimal; without them any copy that can be read is accepted. fetch: gets it over the network into a
    folder and returns the source and the arrays; without it, only `data download NAME --from PATH` does.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    train: int
    test: int
    format: str
    licence: str
    citation: str
    sources: tuple[str, ...] = ()
    sha256: Mapping[str, str] = field(default_factory=dict)
    make: Callable[[], Dataset] | None = None
    read: Callable[[Path], Arrays] | None = None
    fetch: Callable[[Path], tuple[str, Arrays]] | None = None
    usual: bool = False
    """Whether recipes are made for so many images of this size; else they are fitted, as to a folder."""
    published_duplicates: float | None = None
    """Share of the test images with near duplicates, in the test set too, as published; None where nobody counted."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.-]*", self.name):
            raise UsageError(f"a data set cannot be named {self.name!r}: use letters, digits, _, - and dots")
        if (self.make is None) == (self.read is None):
            raise UsageError(f"data set {self.name!r}: give one of make and read")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape by array name, as published."""
        rows = {"train": self.train, "test": self.test}
        images = {f"{split}_images": (count, *self.shape) for split, count in rows.items()}
        return images | {f"{split}_labels": (count,) for split, count in rows.items()}

    def check(self, arrays: Arrays, origin: str) -> None:
        """Raise `DataError` unless these are arrays of this data set, as far as that is declared."""
        for name, shape in self.shapes.items():
            array = arrays.get(name)
            expected = "×".join(("N", *map(str, shape[1:])))
            if array is None or array.dtype != np.uint8 or array.shape[1:] != shape[1:]:
                raise DataError(f"{origin}: no {name.replace('_', ' ')} of {self.title} (uint8 {expected})")
        for split in ("train", "test"):
            images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
            if len(images) != len(labels) or not len(labels) or labels.max() >= len(self.classes):
                count = f"{len(images):,} {split} images and {len(labels):,} labels"
                raise DataError(f"{origin}: {count}: wanted as many, from 0 to {len(self.classes) - 1}")


DATASETS: Registry[DatasetEntry] = Registry("data set")


def register_dataset(entry: DatasetEntry) -> DatasetEntry:
    """Let commands and `tenfold.load` name a data set. Raises `UsageError` where the name is taken."""
    function = entry.make or entry.read
    return DATASETS.add(entry.name, entry, getattr(function, "__module__", entry.__module__))
