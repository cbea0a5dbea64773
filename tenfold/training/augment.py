"""Batched augmentation, and the views of an image at test time.

Training samples one `AugmentParams` an epoch from a key, so that after an interruption an epoch's come out the same.
Shapes: N images, B of them in a batch, H×W pixels; images are uint8 N×H×W×3 and reach the network as float B×3×H×W,
which is channels-last in memory without a copy.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tenfold.training.recipe import Recipe


def make_generator(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """Return a generator that depends on nothing but seed, purpose and index: no state to save, none to restore."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, index))


def derive_seed(seed: int, purpose: str, index: int = 0) -> int:
    """Mix seed, purpose and index to 63 bits."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass(frozen=True)
class AugmentParams:
    """What was drawn for each of N images in one epoch; None where the recipe does not ask for it.

    order: int64 N, image numbers in training order. flip: bool N. shift: int64 N×2, rows and columns by which the
    content moves down and right. theta: float N×2×3, affine map from output to input pixels about the centre.
    cutout_corner: int64 N×2, the top left pixel of the grey square.
    """

    order: Tensor
    flip: Tensor | None
    shift: Tensor | None
    theta: Tensor | None
    cutout_corner: Tensor | None

    def to(self, device: torch.device) -> "AugmentParams":
        """Move all draws to `device`."""
        fields = (self.order, self.flip, self.shift, self.theta, self.cutout_corner)
        return AugmentParams(*(field if field is None else field.to(device) for field in fields))  # type: ignore[arg-type]


def sample_augmentation(recipe: Recipe, count: int, size: int, seed: int, epoch: int) -> AugmentParams:
    """Draw order and augmentation of `count` images of side `size` for one epoch."""
    generator = make_generator(seed, "augment", epoch)
    shift = cutout_corner = theta = None
    if recipe.translate:
        shift = torch.randint(-recipe.translate, recipe.translate + 1, (count, 2), generator=generator)
    if recipe.degrees or recipe.affine_translate:
        theta = draw_affine(count, recipe.degrees, recipe.affine_translate * size, generator)
    if recipe.cutout:
        cutout_corner = torch.randint(1 - recipe.cutout, size, (count, 2), generator=generator)
    order = torch.randperm(count, generator=make_generator(seed, "order", epoch))
    return AugmentParams(order, draw_flips(recipe.flip, count, seed, epoch), shift, theta, cutout_corner)


def draw_flips(kind: str, count: int, seed: int, epoch: int) -> Tensor | None:
    """Draw which images are mirrored: bool N, or None for none.

    `alternating` (Keller Jordan, "94% on CIFAR-10 in 3.29 seconds", 2024) tosses a coin for the first epoch and turns
    all of them over in every later one.
    """
    if kind == "none":
        return None
    first = torch.rand(count, generator=make_generator(seed, "flip", epoch if kind == "random" else 0)) < 0.5
    return first ^ (epoch % 2 == 1) if kind == "alternating" else first


def draw_affine(count: int, degrees: float, pixels: float, generator: torch.Generator) -> Tensor:
    """Draw maps N×2×3 from output to input (row, column) about the centre: shift first, then rotate.

    Angle uniform in ±`degrees`, both shifts uniform in ±`pixels`.
    """
    uniform = torch.rand(count, 3, generator=generator) * 2 - 1
    angle = uniform[:, 0] * math.radians(degrees)
    rotation = torch.stack((angle.cos(), -angle.sin(), angle.sin(), angle.cos()), 1).view(-1, 2, 2)
    offset = rotation @ (uniform[:, 1:] * pixels).unsqueeze(2)
    return torch.cat((rotation, offset), 2)


class Normalization(NamedTuple):
    """How uint8 pixels become network input: value / 255, minus mean, over std; each float, 3 channels."""

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def normalize(self, images: Tensor) -> Tensor:
        """Map uint8 or float [0, 255] B×H×W×3 to float32 B×3×H×W."""
        # as Keras does, pixels are scaled by 1/255 in float32; mean and std follow
        scaled = images.float().mul_(1 / 255)
        if self != Normalization():
            scaled = scaled.sub_(scaled.new_tensor(self.mean)).div_(scaled.new_tensor(self.std))
        return scaled.permute(0, 3, 1, 2)


def channel_stats(images: Tensor) -> Normalization:
    """Mean and standard deviation per channel of uint8 N×H×W×3, in units of [0, 1]."""
    counts = torch.stack([torch.bincount(images[..., channel].flatten(), minlength=256) for channel in range(3)])
    weights = counts.double() / counts.sum(1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = weights @ values
    std = (weights @ values**2 - mean**2).sqrt().clamp(min=1e-3)  # images of one flat colour must not divide by 0
    return Normalization(tuple(mean.tolist()), tuple(std.tolist()))


def make_batch(images: Tensor, pixels: Normalization, draws: AugmentParams, indices: Tensor, cutout: int = 0) -> Tensor:
    """Cut the images numbered `indices` (int64 B) out of N×H×W×3, augmented as drawn: float32 B×3×H×W.

    Flip and whole-pixel shift only choose pixels, so they cost one gather; an affine map is resampled in float and
    flipped afterwards.
    """
    flip = None if draws.flip is None else draws.flip[indices]
    shift = None if draws.shift is None else draws.shift[indices]
    if draws.theta is None:
        batch = pixels.normalize(gather(images, indices, flip, shift))
    else:
        batch = resample(pixels.normalize(gather(images, indices, None, shift)), draws.theta[indices])
        batch = batch if flip is None else torch.where(_per_image(flip), batch.flip(3), batch)
    return batch if draws.cutout_corner is None else cut_out(batch, draws.cutout_corner[indices], cutout)


def gather(images: Tensor, indices: Tensor, flip: Tensor | None, shift: Tensor | None) -> Tensor:
    """Take images `indices`, flipped and then shifted with a mirrored border: N×H×W×3 to B×H×W×3, same dtype."""
    if flip is None and shift is None:
        return images[indices]
    size = images.shape[1]
    steps = torch.arange(size, device=images.device).expand(len(indices), -1)
    rows, columns = steps, steps
    if shift is not None:
        rows, columns = reflect(steps - shift[:, :1], size), reflect(steps - shift[:, 1:], size)
    if flip is not None:
        columns = torch.where(flip[:, None], size - 1 - columns, columns)
    return images[indices[:, None, None], rows[:, :, None], columns[:, None, :]]


def reflect(index: Tensor, size: int) -> Tensor:
    """Bring indices just outside [0, size) back in by mirroring at the border pixels' centres."""
    return (size - 1) - ((size - 1) - index.abs()).abs()


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


def downsample(images: Tensor, side: int) -> Tensor:
    """Average B×C×H×W down to B×C×side×side.

    Coarse structure is learned first, and from small images it is learned at a fraction of the cost (progressive
    resizing: Jeremy Howard for DAWNBench, 2018).
    """
    return F.adaptive_avg_pool2d(images, side)


def cut_out(images: Tensor, cutout_corner: Tensor, side: int) -> Tensor:
    """Set a square of `side` pixels, top left at `cutout_corner` (int64 B×2, may lie outside), to 0, the mean.

    DeVries and Taylor, "Improved regularization of convolutional neural networks with cutout", 2017.
    """
    steps = torch.arange(images.shape[2], device=images.device)
    rows, columns = ((steps >= cutout_corner[:, i, None]) & (steps < cutout_corner[:, i, None] + side) for i in (0, 1))
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)


def _per_image(flags: Tensor) -> Tensor:
    return flags.view(-1, 1, 1, 1)


View = tuple[float, bool, int]
"""Weight, mirrored or not, and by how many pixels the content moves up and left."""

VIEWS: dict[str, tuple[View, ...]] = {
    "one": ((1.0, False, 0),),
    "mirror": ((0.5, False, 0), (0.5, True, 0)),
    "six": (
        (0.25, False, 0),
        (0.25, True, 0),
        *((0.125, mirrored, shift) for mirrored in (False, True) for shift in (-1, 1)),
    ),
}
"""Test-time views; the first is the plain image. The six and their weights are those of airbench (2024)."""


def tta_view(images: Tensor, mirrored: bool, shift: int) -> Tensor:
    """Return N×H×W×3 seen once mirrored and shifted along the diagonal, the border mirrored."""
    everything = torch.arange(len(images), device=images.device)
    return gather(
        images,
        everything,
        torch.ones(len(images), dtype=torch.bool, device=images.device) if mirrored else None,
        torch.full((len(images), 2), -shift, device=images.device) if shift else None,
    )
