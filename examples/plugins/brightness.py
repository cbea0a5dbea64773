"""Random brightness, for recipes with `"augmentations": [{"name": "brightness", "amount": 0.2}]`."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

import tenfold


@tenfold.register_augmentation("brightness")
class Brightness(tenfold.Augmentation):
    """Make each image lighter or darker."""

    amount: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Largest change of a pixel's value, where white is 1."""

    def sample(self, epoch: tenfold.Epoch) -> Tensor:
        """Draw a change for each image: float N, uniform in ±amount."""
        return (torch.rand(epoch.count, generator=epoch.generator) * 2 - 1) * self.amount

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        """Add it: float B×3×H×W in [0, 1]."""
        return (images + params.view(-1, 1, 1, 1)).clamp(0, 1)
