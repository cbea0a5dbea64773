"""Augmentations that only choose pixels: however many, they cost one gather, while a pixel is one byte."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tenfold.training.augmentation import Augmentation
from tenfold.training.images import ImageTensor


class PixelChoice(Augmentation):
    """An augmentation each of whose output pixels is one input pixel, by row and by column."""

    def choose(self, rows: Tensor, columns: Tensor, size: int, params: Tensor) -> tuple[Tensor, Tensor]:
        """Map rows and columns of the output (int64 B×H each) to those of the input."""
        raise NotImplementedError

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        """As `Augmentation.apply`; alone, where it cannot be one gather with others."""
        everything = torch.arange(len(images), device=images.device)
        return gather(images.permute(0, 2, 3, 1), everything, [(self, params)]).permute(0, 3, 1, 2)


def gather(images: ImageTensor, indices: Tensor, choices: Sequence[tuple[PixelChoice, Tensor]]) -> Tensor:
    """Take images `indices` of N×H×W×3, changed by one choice after the other: B×H×W×3, same dtype."""
    if not choices:
        return images[indices]
    size = images.shape[1]
    rows = columns = torch.arange(size, device=images.device).expand(len(indices), -1)
    for choice, params in reversed(choices):  # from the output back to the input
        rows, columns = choice.choose(rows, columns, size, params)
    if not isinstance(images, Tensor):
        images, indices = images[indices], torch.arange(len(indices), device=images.device)
    return images[indices[:, None, None], rows[:, :, None], columns[:, None, :]]
