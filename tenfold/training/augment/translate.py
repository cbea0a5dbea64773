"""Translate images by whole pixels."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from tenfold.training.augment.gather import PixelChoice
from tenfold.training.augmentation import Epoch, register_augmentation


@register_augmentation("translate")
class Translate(PixelChoice):
    """Move the content by whole pixels, the border mirrored. Parameters: int64 N×2, rows down and columns right."""

    pixels: Annotated[int, Field(ge=0, le=1024)] = 2
    """Largest translation."""

    def sample(self, epoch: Epoch) -> Tensor:
        """Draw both translations of every image, uniform."""
        return torch.randint(-self.pixels, self.pixels + 1, (epoch.count, 2), generator=epoch.generator)

    def choose(self, rows: Tensor, columns: Tensor, size: int, params: Tensor) -> tuple[Tensor, Tensor]:
        """As `PixelChoice.choose`."""
        return reflect(rows - params[:, :1], size), reflect(columns - params[:, 1:], size)


def reflect(index: Tensor, size: int) -> Tensor:
    """Bring indices just outside [0, size) back in by mirroring at the border pixels' centres."""
    return (size - 1) - ((size - 1) - index.abs()).abs()
