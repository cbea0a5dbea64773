"""What a network is to training and export: the base of all modules.

Shapes: N images, C channels, H×W pixels, K classes. Input: normalised float N×3×H×W; output: logits N×K.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn


class Network(nn.Module):
    """A module from images to logits. What a network does not override, it does without."""

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
