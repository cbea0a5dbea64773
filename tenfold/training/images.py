"""The images that a network sees: a tensor, or those of a large folder, of which only batches become tensors.

Shapes: N images, H×W pixels.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from tenfold.data import stored
from tenfold.data.stored import StoredImages


class StoredTensor:
    """Stored images as a tensor uint8 N×H×W×3 of which only parts are read: `images[index]` is on its `device`."""

    def __init__(self, images: StoredImages, device: torch.device | None = None):
        self._images, self.device = images, device or torch.device("cpu")
        self.shape = torch.Size(images.shape)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        return torch.from_numpy(self._images[_to_numpy(index)]).to(self.device)

    def select(self, index: Tensor | slice) -> "StoredTensor":
        """Those of a slice or of an array of numbers or booleans; nothing is read."""
        return StoredTensor(self._images.select(_to_numpy(index)), self.device)

    def to(self, device: torch.device) -> "StoredTensor":
        """The same, read to another device."""
        return StoredTensor(self._images, device)

    def split(self, size: int) -> Iterator[Tensor]:
        """All images, in order, in parts of so many."""
        for begin in range(0, len(self), size):
            yield self[begin : begin + size]


ImageTensor = Tensor | StoredTensor
"""uint8 N×H×W×3: `images[index]` is a tensor in both cases."""


def _to_numpy(index: Tensor | slice) -> np.ndarray | slice:
    return index if isinstance(index, slice) else index.cpu().numpy()


def as_images(images: stored.Images) -> ImageTensor:
    """Copy images into memory, but for stored ones, which stay where they are."""
    return StoredTensor(images) if isinstance(images, StoredImages) else torch.from_numpy(np.array(images))


def rows_of(images: ImageTensor, index: Tensor | slice) -> ImageTensor:
    """The images of a slice or of an array of numbers or booleans, without reading stored ones."""
    return images.select(index) if isinstance(images, StoredTensor) else images[index]
