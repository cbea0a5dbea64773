"""A network as plain data, what a recipe may ask of it, and the registry of those that recipes can name.

Needs no torch: a recipe is read without it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar, dataclass_transform

from pydantic import Field, PlainSerializer, PlainValidator

from tenfold.registry import Registry
from tenfold.training.spec import Spec, read_spec, register_spec

if TYPE_CHECKING:
    from tenfold.training.networks.module import Network
    from tenfold.training.networks.pretrained import PretrainedWeights

Channels = tuple[float, float, float]


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
    has_linear_head: ClassVar[bool] = False
    """Whether its layer `head` is linear, with biases, on features that are worth something from the beginning."""
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
    def pretrained(self) -> "PretrainedWeights | None":
        """The weights that `initialize_from` takes; None where training starts from random ones. Needs torch."""
        return None

    def build(self, classes: int, size: int) -> "Network":
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
