"""The views of an image at test time (test-time augmentation)."""

import torch
from torch import Tensor

from tenfold.training.augment.flip import Flip
from tenfold.training.augment.gather import gather
from tenfold.training.augment.translate import Translate

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
    count, device = len(images), images.device
    flips = [(Flip(), torch.ones(count, dtype=torch.bool, device=device))] if mirrored else []
    shifts = [(Translate(), torch.full((count, 2), -shift, device=device))] if shift else []
    return gather(images, torch.arange(count, device=device), [*flips, *shifts])
