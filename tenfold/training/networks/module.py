"""What a network is to training and export: the base of all modules.

Shapes: N images, C channels, H×W pixels, K classes. Input: normalised float N×3×H×W; output: logits N×K.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn


class Network(nn.Module):
    """A module from images to logits. What a network does not override, it does without."""

    early_layer: str = ""
    """Name of a layer whose inputs, N×C×H×W, are early features that the distance looks at, too; empty for none."""
    export_functions: ClassVar[Mapping[str, Mapping[Any, Callable[..., Any]]]] = {}
    """By export format: how it writes a function that `forward` calls, where it does not know that by itself.

    `onnx`: the function's other arguments to (operator, attributes). `keras`: (keras.layers, name, the function's
    other arguments) to a layer.
    """

    def initialize_from(self, images: Tensor) -> None:
        """Set weights by training images (float N×3×H×W, `NetworkSpec.initial_images` of them), before training."""

    def early_parameters(self) -> list[nn.Parameter]:
        """Parameters that are trained at first only: their rate falls to zero within `whiten_bias_epochs`."""
        return []

    def first_parameters(self) -> list[nn.Parameter]:
        """Parameters that a recipe's `freeze_fraction` keeps as they are towards the end of training."""
        return []

    def l2_parameters(self) -> list[nn.Parameter]:
        """Kernels (K×C×H×W) whose squares a recipe's `l2` adds to the loss."""
        return []


class PaddedConv2d(nn.Conv2d):
    """A convolution with `zeros` = (before, after) on both axes, which may differ, as TensorFlow pads."""

    def __init__(
        self, channels_in: int, channels: int, kernel: int, stride: int, zeros: tuple[int, int], groups: int = 1
    ):
        even = zeros[0] if zeros[0] == zeros[1] else 0
        super().__init__(channels_in, channels, kernel, stride, padding=even, groups=groups)
        self.zeros = zeros

    def forward(self, x: Tensor) -> Tensor:
        """Map N×C_in×H×W to N×C×H'×W'."""
        before, after = self.zeros
        return super().forward(x if before == after else F.pad(x, (before, after) * 2))


def zeros_around(layer: nn.Conv2d) -> tuple[int, int]:
    """How many zeros a convolution puts before and after each row and column, for exporters."""
    if isinstance(layer, PaddedConv2d):
        return layer.zeros
    return int(layer.padding[0]), int(layer.padding[0])
