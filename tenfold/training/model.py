"""The networks. `build(spec, classes, size)` gives a module from pixels to logits; a spec is plain data.

Shapes: N images, C channels, H×W pixels, K classes. Input: normalised float N×3×H×W; output: logits N×K.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tenfold.errors import UsageError
from tenfold.training.convolution import Conv3x3
from tenfold.training.recipe import NetworkSpec


def build(spec: NetworkSpec, classes: int = 10, size: int = 32) -> nn.Module:
    """Build the network of `spec` for `classes` classes and `size`×`size` images, in channels-last layout.

    Weights are drawn from torch's global generator. Raises `UsageError` where the images are too small for the depth.
    """
    network = Reference(spec, classes, size) if spec.name == "reference" else WhitenedConvNet(spec, classes, size)
    return channels_last(network)


def make_network(spec: NetworkSpec, classes: int, images: Tensor, seed: int, device: torch.device) -> nn.Module:
    """Build the network of `spec` for training on images such as these (normalised float N×3×H×W, on the CPU).

    Its weights are drawn from `seed` on the CPU, so that they are the same on every device. Raises as `build` does.
    """
    torch.manual_seed(seed)
    network = build(spec, classes, images.shape[2])
    if isinstance(network, WhitenedConvNet):
        network.initialize_from(images)
    return network.to(device).train()


def channels_last(network: nn.Module) -> nn.Module:
    """Lay the filters out with channels last, in place; files keep no memory format, so this follows every load."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


# --- the fast family ---------------------------------------------------------------------------------------------


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that learns a bias only, as the speed records do: the scale would be undone by the next layer."""

    def __init__(self, channels: int, momentum: float):
        super().__init__(channels, momentum=momentum, eps=1e-12)
        self.weight.requires_grad_(False)


class Conv(Conv3x3):
    """A 3×3 convolution without bias whose first filters start as the identity, so that signal and gradient pass."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__(channels_in, channels_out, bias=False)
        with torch.no_grad():
            nn.init.dirac_(self.weight[:channels_in])


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
        first, *others = zip(self.convs, self.norms, strict=True)
        x = shortcut = F.gelu(first[1](F.max_pool2d(first[0](x), 2)))
        for index, (conv, norm) in enumerate(others, start=1):
            x = norm(conv(x))
            x = x + shortcut if self.residual and index == len(others) else x
            x = F.gelu(x)
        return x


class WhitenedConvNet(nn.Module):
    """A fixed patch-whitening layer, groups of convolutions, a global max pool and a scaled linear head.

    The layout follows Keller Jordan's airbench (2024), with 3×3 patches and padding, so that every side is even.
    """

    def __init__(self, spec: NetworkSpec, classes: int, size: int):
        super().__init__()
        self.patch = nn.Conv2d(3, 2 * spec.whitening_pairs, spec.whitening, spec.stride, (spec.whitening - 1) // 2)
        self.patch.weight.requires_grad_(False)
        self.first_activation: Callable[[Tensor], Tensor] = F.relu if spec.first_activation == "relu" else F.gelu
        widths = (self.patch.out_channels, *spec.widths)
        pairs = pairwise(widths)
        self.groups = nn.Sequential(
            *(ConvGroup(*pair, spec.depth, spec.batch_norm_momentum, spec.residual) for pair in pairs)
        )
        if spec.side(size, len(spec.widths)) == 0:
            raise UsageError(f"{size}×{size} images are too small for {len(spec.widths)} groups")
        self.head = nn.Linear(spec.widths[-1], classes, bias=False)
        with torch.no_grad():
            self.head.weight /= self.head.weight.std()
        self.scale = spec.head_scale / spec.widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Map N×3×H×W to logits N×K."""
        x = self.groups(self.first_activation(self.patch(x)))
        x = F.adaptive_max_pool2d(x, 1).flatten(1)
        return self.head(x) * self.scale

    def first_parameters(self) -> list[nn.Parameter]:
        """What training may leave alone towards its end: the first layer's bias, then the first group's parameters."""
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
        patches = F.unfold(images.float(), side)  # N × 3·side² × places
        covariance = torch.einsum("nip,njp->ij", patches, patches) / (len(patches) * patches.shape[2])
        values, vectors = torch.linalg.eigh(covariance.double())
        count = self.patch.out_channels // 2
        if count > len(values):
            raise UsageError(f"whitening_pairs is {count}, but {side}×{side} patches have only {len(values)}")
        varying = max(1, int((values > 1e-4 * eps).sum()))
        strongest = (vectors / torch.sqrt(values + eps)).T.flip(0)[torch.arange(count) % varying].float()
        filters = _fix_signs(strongest).reshape(count, 3, side, side)
        self.patch.weight.copy_(torch.cat((filters, -filters)))


def _fix_signs(rows: Tensor) -> Tensor:
    """Make each row's largest entry positive: an eigenvector's sign is the linear algebra library's whim."""
    largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    return rows * largest.sign()


# --- the reference system's network ------------------------------------------------------------------------------

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


class Reference(nn.Module):
    """The residual CNN of the reference system: 17,001,930 numbers for ten classes and 32×32 images."""

    def __init__(self, spec: NetworkSpec, classes: int, size: int):
        super().__init__()
        if size >> len(REFERENCE_BLOCKS) == 0:
            raise UsageError(f"{size}×{size} images are too small for the reference network: 32 is the least")
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


def _initialize_as_keras(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.constant_(module.get_parameter("bias"), 0.0)


def l2_parameters(network: nn.Module) -> list[nn.Parameter]:
    """The kernels whose squares the reference system adds to its loss: those of its 3×3 convolutions."""
    if not isinstance(network, Reference):
        return []
    return [p for name, p in network.named_parameters() if ".convs." in name and name.endswith(".weight")]


def l2_penalty(network: nn.Module, weight: float) -> Tensor | float:
    """The L2 term of the loss: `weight` times the sum of squares of the kernels that the reference system decays."""
    kernels = l2_parameters(network) if weight else []
    if not kernels:
        return 0.0
    # by way of every filter's norm, which unlike squares need no memory
    return weight * torch.cat([torch.linalg.vector_norm(kernel, dim=(1, 2, 3)) for kernel in kernels]).square().sum()


# --- what a network looks like -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """A row of the summary: dotted name, kind, output shape without the batch, numbers held (buffers of norms too)."""

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int


def count_parameters(model: nn.Module, trainable: bool = False) -> int:
    """Count weights and, as Keras does, the norms' moving means and variances; or only what is trained."""
    if trainable:
        return sum(p.numel() for p in model.parameters() if p.requires_grad)
    moving = sum(b.numel() for b in model.buffers() if b.is_floating_point())
    return sum(p.numel() for p in model.parameters()) + moving


def summarize(model: nn.Module, size: int = 32) -> list[Layer]:
    """List the layers that hold numbers, in the order in which an image meets them."""
    layers: list[Layer] = []

    def note(name: str) -> Any:
        def hook(module: nn.Module, _inputs: Any, output: Tensor) -> None:
            layers.append(Layer(name, type(module).__name__, tuple(output.shape[1:]), count_parameters(module)))

        return hook

    leaves = [(name, module) for name, module in model.named_modules() if not any(module.children())]
    hooks = [module.register_forward_hook(note(name)) for name, module in leaves]
    training = model.training
    device = next(model.parameters()).device
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, size, size, device=device))
    model.train(training)
    for hook in hooks:
        hook.remove()
    return layers
