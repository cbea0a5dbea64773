"""What a network is to everything else, and the registry of those that recipes can name.

Shapes: N images, C channels, H×W pixels, K classes. Input: normalised float N×3×H×W; output: logits N×K.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, TypeVar, dataclass_transform

import torch.nn.functional as F
from pydantic import Field, PlainSerializer, PlainValidator
from torch import Tensor, nn

from tenfold.registry import Registry
from tenfold.training.networks.pretrained import PretrainedWeights
from tenfold.training.spec import Spec, read_spec, register_spec

Channels = tuple[float, float, float]


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


class NetworkSpec(Spec):
    """Base of the specs: a network as plain data, and what a recipe may ask of it."""

    can_freeze: ClassVar[bool] = False
    """Whether `first_parameters` are some, so that `freeze_fraction` may be set."""
    has_l2: ClassVar[bool] = False
    """Whether `l2_parameters` are some, so that `l2` may be set."""
    one_size: ClassVar[bool] = False
    """Whether it takes images of the size only that it was built for, so that `low_res_fraction` may not be set."""
    also_exported: ClassVar[tuple[str, ...]] = ()
    """Export formats besides ONNX that `tenfold train` writes with its report, where their packages are installed."""
    normalization: ClassVar[tuple[Channels, Channels] | None] = None
    """Mean and standard deviation per channel, of pixels in [0, 1], where it wants these instead of the recipe's."""
    float32_on_cpu: ClassVar[bool] = False
    """Whether a CPU is to train it in float32, as where PyTorch's gradients in bfloat16 are slower."""
    usual_size: ClassVar[int] = 32
    """Pixels a side that a folder's images are brought to unless the user asks for another size."""
    initial_images: ClassVar[int] = 1
    """How many training images `initialize_from` wants."""

    @property
    def smallest(self) -> int:
        """Pixels a side of the smallest images that it takes."""
        return 1

    @property
    def pretrained(self) -> PretrainedWeights | None:
        """The weights that `initialize_from` takes; None where training starts from random ones."""
        return None

    def build(self, classes: int, size: int) -> Network:
        """Make the network for `classes` classes and `size`×`size` images, its weights from torch's global generator.

        Raises `UsageError` where the images are too small.
        """
        raise NotImplementedError

    def proxy(self, widths: tuple[int, ...]) -> "NetworkSpec | None":
        """The small network of such widths that picks this one's training images (`proxy_widths`); None for none."""
        del widths
        return None


NETWORKS: Registry[type[NetworkSpec]] = Registry("network")

S = TypeVar("S", bound=NetworkSpec)


@dataclass_transform(frozen_default=True, field_specifiers=(Field,))
def register_network(name: str) -> Callable[[type[S]], type[S]]:
    """Let recipes name a network: `"network": {"name": "resnet", "width": 16}`.

    Decorates a subclass of `NetworkSpec`, which becomes a strict, frozen dataclass of its annotated fields. Raises
    `UsageError` where the name is taken.
    """

    def register(spec: type[S]) -> type[S]:
        return register_spec(NETWORKS, name, spec)

    return register


def _read(value: Any) -> NetworkSpec:
    return read_spec(NETWORKS, value, NetworkSpec, "network", default="whitened")


AnyNetwork = Annotated[NetworkSpec, PlainValidator(_read), PlainSerializer(NetworkSpec.to_json)]
"""A field of a recipe that holds the spec of any registered network."""
