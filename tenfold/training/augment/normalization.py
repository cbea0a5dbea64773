"""From uint8 pixels to what networks take."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tenfold.training.images import ImageTensor

_BATCH = 500  # images counted at a time


class Normalization(NamedTuple):
    """How uint8 pixels become network input: value / 255, minus mean, over std; each float, 3 channels."""

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def normalize(self, images: Tensor) -> Tensor:
        """Map uint8 or float [0, 255] B×H×W×3 to float32 B×3×H×W."""
        return self.standardize(to_unit(images))

    def standardize(self, images: Tensor) -> Tensor:
        """Subtract mean and divide by std, in place: float B×3×H×W in [0, 1]."""
        if self == Normalization():
            return images
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in self)
        return images.sub_(mean).div_(std)


def to_unit(images: Tensor) -> Tensor:
    """Map uint8 or float [0, 255] B×H×W×3 to new float32 B×3×H×W in [0, 1], channels-last in memory."""
    return images.float().mul_(1 / 255).permute(0, 3, 1, 2)  # as Keras does, scaled in float32; mean and std follow


def channel_stats(images: ImageTensor) -> Normalization:
    """Mean and standard deviation per channel of uint8 N×H×W×3, in units of [0, 1]."""
    counts = torch.zeros(3, 256, dtype=torch.int64)
    for batch in images.split(_BATCH):
        counts += torch.stack([torch.bincount(batch[..., channel].flatten(), minlength=256) for channel in range(3)])
    weights = counts.double() / counts.sum(1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = weights @ values
    std = (weights @ values**2 - mean**2).sqrt().clamp(min=1e-3)  # images of one flat colour must not divide by 0
    return Normalization(tuple(mean.tolist()), tuple(std.tolist()))


def downsample(images: Tensor, side: int) -> Tensor:
    """Average B×C×H×W down to B×C×side×side.

    Coarse structure is learned first, and from small images it is learned at a fraction of the cost (progressive
    resizing: Jeremy Howard for DAWNBench, 2018).
    """
    return F.adaptive_avg_pool2d(images, side)
