"""What an augmentation is, and the registry of those that recipes can name. Needs no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar, dataclass_transform

from pydantic import Field, PlainSerializer, PlainValidator

from tenfold import extras
from tenfold.registry import Registry
from tenfold.training.spec import Spec, read_spec, register_spec

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Epoch:
    """What one epoch's parameters are sampled for and from.

    count: N images of `size`×`size` pixels. number: of the epoch, from 0. generator: depends on seed, augmentation and
    epoch only, so that an interrupted run samples the same again.
    """

    count: int
    size: int
    seed: int
    number: int
    generator: "torch.Generator"


class Augmentation(Spec):
    """A random change of training images: `sample` draws its parameters for an epoch, `apply` changes a batch."""

    normalized: ClassVar[bool] = False
    """Whether `apply` takes normalised images, whose mean colour is 0, instead of values in [0, 1]."""

    def sample(self, epoch: Epoch) -> "Tensor":
        """Draw the parameters of all N images, a tensor with a row for each."""
        raise NotImplementedError

    def apply(self, images: "Tensor", params: "Tensor") -> "Tensor":
        """Change a batch of images, float32 B×3×H×W, by their B rows of parameters; may work in place."""
        raise NotImplementedError


AUGMENTATIONS: Registry[type[Augmentation]] = Registry("augmentation", home="tenfold.training.augment")

S = TypeVar("S", bound=Augmentation)


@dataclass_transform(frozen_default=True, field_specifiers=(Field,))
def register_augmentation(name: str) -> Callable[[type[S]], type[S]]:
    """Let recipes name an augmentation: `"augmentations": [{"name": "brightness", "amount": 0.2}]`.

    Decorates a subclass of `Augmentation`, which becomes a strict, frozen dataclass of its annotated fields. Raises
    `UsageError` where the name is taken.
    """

    def register(spec: type[S]) -> type[S]:
        return register_spec(AUGMENTATIONS, name, spec)

    return register


def _read(value: Any) -> Augmentation:
    extras.require("train", ("torch",))  # which those that are looked up bring
    return read_spec(AUGMENTATIONS, value, Augmentation, "augmentations")


AnyAugmentation = Annotated[Augmentation, PlainValidator(_read), PlainSerializer(Augmentation.to_json)]
"""A field of a recipe that holds any registered augmentation."""
