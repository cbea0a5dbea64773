"""A small residual network (He et al., 2015): `"network": {"name": "resnet", "widths": [16, 32, 64]}` in a recipe."""

from itertools import pairwise
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

import tenfold


@tenfold.register_network("resnet")
class ResNetSpec(tenfold.NetworkSpec):
    """The fields of the network in a recipe."""

    widths: Annotated[tuple[int, ...], Field(min_length=1)] = (16, 32, 64)
    """Channels of each block; every block but the first halves the side."""

    @property
    def smallest(self) -> int:
        """Pixels a side of the smallest images."""
        return 2 ** (len(self.widths) - 1)

    def build(self, classes: int, size: int) -> tenfold.Network:
        """Make the network; its weights are drawn by PyTorch's defaults."""
        del size  # any will do
        return ResNet(self.widths, classes)


class ResNet(tenfold.Network):
    """N×3×H×W to logits N×K."""

    # what the exporters do not know by themselves: how to write a function that `forward` calls
    export_functions = {  # noqa: RUF012
        "onnx": {F.adaptive_avg_pool2d: lambda _side: ("GlobalAveragePool", {})},
        "keras": {
            F.adaptive_avg_pool2d: lambda layers, name, _side: layers.GlobalAveragePooling2D(keepdims=True, name=name)
        },
    }

    def __init__(self, widths: tuple[int, ...], classes: int):
        super().__init__()
        pairs = pairwise((3, *widths))
        self.blocks = nn.Sequential(*(Block(*pair, stride=2 if i else 1) for i, pair in enumerate(pairs)))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to logits."""
        return self.head(F.adaptive_avg_pool2d(self.blocks(x), 1).flatten(1))


class Block(nn.Module):
    """Two 3×3 convolutions, each with norm, and a 1×1 shortcut around them."""

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Conv2d(channels_in, channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map N×C_in×H×W to N×C×H/stride×W/stride."""
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))
