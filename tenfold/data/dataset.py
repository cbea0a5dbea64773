"""What every source of pixels ends in: a `Dataset`."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Split:
    """Images and labels that belong together.

    images: uint8, N×H×W×3, RGB; may be memory-mapped and read-only.
    labels: an unsigned integer type, N, each in [0, K).
    """

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        assert self.images.dtype == np.uint8 and self.images.ndim == 4 and self.images.shape[3] == 3
        assert self.labels.shape == (len(self.images),)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: slice | np.ndarray) -> "Split":
        return Split(self.images[index], self.labels[index])


@dataclass(frozen=True)
class Dataset:
    """A named data set: K class names in label order, what to train on, and what to score on."""

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
