"""Mirror images left to right."""

from typing import Literal

import torch
from torch import Tensor

from tenfold.training.augment.gather import PixelChoice
from tenfold.training.augment.keys import make_generator
from tenfold.training.augmentation import Epoch, register_augmentation


@register_augmentation("flip")
class Flip(PixelChoice):
    """Mirror half of the images. Parameters: bool N."""

    kind: Literal["random", "alternating"] = "random"
    """`alternating` (Keller Jordan, "94% on CIFAR-10 in 3.29 seconds", 2024) tosses a coin for the first epoch and
    turns all images over in every later one."""

    def sample(self, epoch: Epoch) -> Tensor:
        """Draw which images are mirrored, by a key of its own: two epochs of `alternating` share it."""
        generator = make_generator(epoch.seed, "flip", epoch.number if self.kind == "random" else 0)
        first = torch.rand(epoch.count, generator=generator) < 0.5
        return first ^ (epoch.number % 2 == 1) if self.kind == "alternating" else first

    def choose(self, rows: Tensor, columns: Tensor, size: int, params: Tensor) -> tuple[Tensor, Tensor]:
        """As `PixelChoice.choose`."""
        return rows, torch.where(params[:, None], size - 1 - columns, columns)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        """As `Augmentation.apply`."""
        return torch.where(params.view(-1, 1, 1, 1), images.flip(3), images)
