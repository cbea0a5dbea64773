"""The fast family: a fixed patch-whitening layer, groups of convolutions, a global max pool and a scaled linear head.

The layout follows Keller Jordan's airbench (2024), with 3×3 patches and padding, so that every side is even.
"""

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tenfold.training import kernels
from tenfold.training.convolution import Conv3x3
from tenfold.training.networks.module import Network

if TYPE_CHECKING:
    from tenfold.training.networks.specs import WhitenedSpec


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that learns a bias only, as the speed records do: the scale would be undone by the next layer."""

    def __init__(self, channels: int, momentum: float):
        super().__init__(channels, momentum=momentum, eps=1e-12)
        self.weight.requires_grad_(False)

    def gelu(self, x: Tensor, shortcut: Tensor | None = None, pool: bool = False) -> Tensor:
        """GELU(norm(x) + shortcut), x first max-pooled to half the side with `pool`: in training one operation."""
        if self.training and kernels.takes(x):
            return kernels.norm_gelu(x, self, shortcut, pool)
        x = self(F.max_pool2d(x, 2) if pool else x)
        return F.gelu(x if shortcut is None else x + shortcut)


class Conv(Conv3x3):
    """A 3×3 convolution without bias whose first filters start as the identity, so that signal and gradient pass."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__(channels_in, channels_out, bias=False)
        with torch.no_grad():
            nn.init.dirac_(self.weight[:channels_in])


class Whitening(nn.Conv2d):
    """The first layer's convolution, whose bias may be left to what follows."""

    def forward(self, x: Tensor, with_bias: bool = True) -> Tensor:
        """Map N×3×H×W to N×C×H'×W'."""
        return F.conv2d(x, self.weight, self.bias if with_bias else None, self.stride, self.padding)


class ConvGroup(nn.Module):
    """`depth` convolutions, each with norm and GELU; the first is max-pooled to half the side before its norm.

    With `residual`, what the first one gave is added before the last GELU, as in the 96 % recipe of airbench (2024).
    """

    def __init__(self, channels_in: int, channels_out: int, depth: int, momentum: float, residual: bool):
        super().__init__()
        self.residual = residual and depth > 1
        widths = [channels_in] + [channels_out] * depth
        self.convs = nn.ModuleList(Conv(*pair) for pair in pairwise(widths))
        self.norms = nn.ModuleList(BatchNorm(channels_out, momentum) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """Map N×C_in×H×W to N×C_out×H/2×W/2."""
        first, *others = zip(self.convs, cast("Iterable[BatchNorm]", self.norms), strict=True)
        x = shortcut = first[1].gelu(first[0](x), pool=True)
        for index, (conv, norm) in enumerate(others, start=1):
            x = norm.gelu(conv(x), shortcut if self.residual and index == len(others) else None)
        return x


class WhitenedConvNet(Network):
    """The module: N×3×H×W to logits N×K."""

    def __init__(self, spec: "WhitenedSpec", classes: int):
        super().__init__()
        self.patch = Whitening(3, 2 * spec.whitening_pairs, spec.whitening, spec.stride, (spec.whitening - 1) // 2)
        self.patch.weight.requires_grad_(False)
        self.first_activation: Callable[[Tensor], Tensor] = F.relu if spec.first_activation == "relu" else F.gelu
        widths = (self.patch.out_channels, *spec.widths)
        pairs = pairwise(widths)
        self.groups = nn.Sequential(
            *(ConvGroup(*pair, spec.depth, spec.batch_norm_momentum, spec.residual) for pair in pairs)
        )
        self.head = nn.Linear(spec.widths[-1], classes, bias=False)
        with torch.no_grad():
            self.head.weight /= self.head.weight.std()
        self.scale = spec.head_scale / spec.widths[-1]
        self.early_layer = "groups.0.convs.1" if spec.depth > 1 else ""

    def forward(self, x: Tensor) -> Tensor:
        """Map N×3×H×W to logits N×K."""
        x = self.groups(self._first_layer(x))
        x = F.adaptive_max_pool2d(x, 1).flatten(1)
        return self.head(x) * self.scale

    def _first_layer(self, x: Tensor) -> Tensor:
        if self.training and self.first_activation is F.relu and self._is_fixed(x) and kernels.takes(x):
            return kernels.bias_relu(self.patch(x, with_bias=False), self.patch.get_parameter("bias"))
        return self.first_activation(self.patch(x))

    def _is_fixed(self, x: Tensor) -> bool:
        """Whether the first layer's sums need no gradient: of its parameters, only the bias is trained."""
        return not (x.requires_grad or self.patch.weight.requires_grad)

    def early_parameters(self) -> list[nn.Parameter]:
        """The first layer's bias."""
        return [self.patch.get_parameter("bias")]

    def first_parameters(self) -> list[nn.Parameter]:
        """The first layer's bias, then the first group's parameters."""
        group = self.groups[0]
        assert isinstance(group, ConvGroup)
        filters = [conv.get_parameter("weight") for conv in group.convs]
        return [self.patch.get_parameter("bias"), *filters, *(norm.get_parameter("bias") for norm in group.norms)]

    @torch.no_grad()
    def initialize_from(self, images: Tensor, eps: float = 5e-4) -> None:
        """Set the first layer to ± the strongest principal patches of `images` (N×3×H×W), scaled to unit variance.

        The idea of a whitening first layer for fast CIFAR-10 training is from tysam-code's hlb-CIFAR10 (2023). Where
        the images have fewer patches that vary, as grey ones do, these come again: a channel that is always zero has a
        norm that multiplies gradients by a million.
        """
        side = self.patch.kernel_size[0]
        values, vectors = torch.linalg.eigh(_patch_covariance(images, side))
        count = self.patch.out_channels // 2
        varying = max(1, int((values > 1e-4 * eps).sum()))
        strongest = (vectors / torch.sqrt(values + eps)).T.flip(0)[torch.arange(count) % varying].float()
        filters = _fix_signs(strongest).reshape(count, 3, side, side)
        self.patch.weight.copy_(torch.cat((filters, -filters)))


def _patch_covariance(images: Tensor, side: int) -> Tensor:
    """Mean products of the pixels of all side×side patches of N×3×H×W images: float64 3·side² × 3·side²."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for some in images.float().split(500):  # all patches at once would take more memory than a training step
        patches = F.unfold(some, side).transpose(0, 1).flatten(1)  # 3·side² × places of all images
        total, count = total + (patches @ patches.T).double(), count + patches.shape[1]
    return total / count


def _fix_signs(rows: Tensor) -> Tensor:
    """Make each row's largest entry positive: an eigenvector's sign is the linear algebra library's whim."""
    largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    return rows * largest.sign()
