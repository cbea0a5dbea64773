"""The residual CNN of the reference system (SEED.md), as Keras computes it."""

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tenfold.training.convolution import Conv3x3
from tenfold.training.networks.module import Network

if TYPE_CHECKING:
    from tenfold.training.networks.specs import ReferenceSpec

KERAS_EPS = 1e-3
REFERENCE_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and 3×3 convolutions of each block."""
REFERENCE_DENSE = (1024, 1024, 256)


class KerasNorm(nn.BatchNorm2d):
    """Batch norm whose moving variance averages the biased variance of each batch; PyTorch's averages the unbiased."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise N×C×H×W per channel."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        # zeros, since even with a momentum of 1 what was there is multiplied by 0, and 0 × NaN is NaN
        mean, variance = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        y = F.batch_norm(x, mean, variance, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps)
        count = x.numel() / x.shape[1]
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * ((count - 1) / count), self.momentum)
        return y


class ReferenceBlock(nn.Module):
    """Convolutions, plus 1×1 shortcuts from the pooled image and from the block before, then norm and max pool."""

    def __init__(self, channels_in: int, channels: int, depth: int, momentum: float, first: bool):
        super().__init__()
        widths = [channels_in] + [channels] * depth
        self.convs = nn.ModuleList(Conv3x3(*pair) for pair in pairwise(widths))
        self.from_image = nn.Conv2d(3, channels, 1)
        self.from_block = None if first else nn.Conv2d(channels_in, channels, 1)
        self.norm = KerasNorm(channels, momentum=momentum, eps=KERAS_EPS)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        """Map N×C_in×H×W and the image pooled to N×3×H×W to N×C×H/2×W/2."""
        y = x
        for conv in self.convs:
            y = F.relu(conv(y))
        y = y + self.from_image(image)
        if self.from_block is not None:
            y = y + self.from_block(x)
        return F.max_pool2d(self.norm(y), 2)


class Reference(Network):
    """The residual CNN of the reference system: 17,001,930 numbers for ten classes and 32×32 images."""

    def __init__(self, spec: "ReferenceSpec", classes: int, size: int):
        super().__init__()
        inputs = (3, *(channels for channels, _ in REFERENCE_BLOCKS))
        self.blocks = nn.ModuleList(
            ReferenceBlock(inputs[i], channels, depth, spec.batch_norm_momentum, first=i == 0)
            for i, (channels, depth) in enumerate(REFERENCE_BLOCKS)
        )
        side = size >> len(REFERENCE_BLOCKS)
        widths = (inputs[-1] * side * side, *REFERENCE_DENSE)
        self.dense = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.head = nn.Linear(REFERENCE_DENSE[-1], classes)
        self.dropout = spec.dropout
        self.apply(_initialize_as_keras)

    def forward(self, x: Tensor) -> Tensor:
        """Map N×3×H×W to logits N×K."""
        image = x
        for index, block in enumerate(self.blocks):
            x = block(x, F.avg_pool2d(image, 2**index) if index else image)
        # Keras flattens channels last; at 32×32 pixels a single one is left and the order is the same
        x = x.permute(0, 2, 3, 1).flatten(1)
        for dense in self.dense:
            x = F.dropout(F.relu(dense(x)), self.dropout, self.training)
        return self.head(x)

    def l2_parameters(self) -> list[nn.Parameter]:
        """The kernels of its 3×3 convolutions."""
        return [p for name, p in self.named_parameters() if ".convs." in name and name.endswith(".weight")]


def _initialize_as_keras(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.constant_(module.get_parameter("bias"), 0.0)
