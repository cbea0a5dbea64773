"""Rotate and translate images by any amount."""

import math
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tenfold.training.augmentation import Augmentation, Epoch, register_augmentation
from tenfold.training.spec import Share


@register_augmentation("affine")
class Affine(Augmentation):
    """Rotate and translate, bilinear, the border repeated.

    Parameters: float N×2×3, maps from output to input pixels about the centre.
    """

    normalized: ClassVar[bool] = True

    degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest rotation."""
    translate: Share = 0.0
    """Largest translation as a share of the side."""

    def sample(self, epoch: Epoch) -> Tensor:
        """Draw a map for every image."""
        return draw_affine(epoch.count, self.degrees, self.translate * epoch.size, epoch.generator)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        """As `Augmentation.apply`."""
        return resample(images, params)


def draw_affine(count: int, degrees: float, pixels: float, generator: torch.Generator) -> Tensor:
    """Draw maps N×2×3 from output to input (row, column) about the centre: shift first, then rotate.

    Angle uniform in ±`degrees`, both shifts uniform in ±`pixels`.
    """
    uniform = torch.rand(count, 3, generator=generator) * 2 - 1
    angle = uniform[:, 0] * math.radians(degrees)
    rotation = torch.stack((angle.cos(), -angle.sin(), angle.sin(), angle.cos()), 1).view(-1, 2, 2)
    offset = rotation @ (uniform[:, 1:] * pixels).unsqueeze(2)
    return torch.cat((rotation, offset), 2)


def resample(images: Tensor, theta: Tensor) -> Tensor:
    """Resample B×C×H×W bilinearly through maps B×2×3 (output to input, in pixels about the centre, row then column).

    What lies outside is filled with the nearest edge pixel.
    """
    size = images.shape[2]
    centre = (size - 1) / 2
    # grid_sample wants (x, y) with ±1 at the centres of the border pixels
    swapped = theta.flip(1).index_select(2, theta.new_tensor([1, 0, 2], dtype=torch.int64))
    scaled = torch.cat((swapped[:, :, :2], swapped[:, :, 2:] / centre), 2)
    grid = F.affine_grid(scaled, list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)
