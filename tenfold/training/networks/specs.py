"""The built-in networks as plain data: what of them a recipe may set. Only `build` needs torch, for their modules."""

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import pydantic
from pydantic import Field

from tenfold.console import plural
from tenfold.errors import UsageError
from tenfold.training.networks.base import NetworkSpec, register_network
from tenfold.training.spec import Positive, Share, Width

if TYPE_CHECKING:
    from tenfold.training.networks.module import Network
    from tenfold.training.networks.pretrained import PretrainedWeights


@register_network("reference")
class ReferenceSpec(NetworkSpec):
    """The reference network as plain data. The recipe `reference` has the system's own values."""

    batch_norm_momentum: Share = 0.4
    """Weight of the batch in batch norm's running statistics at each step, as PyTorch means it."""
    dropout: Share = 0.0
    """Share of activations dropped after each hidden dense layer."""

    also_exported: ClassVar[tuple[str, ...]] = ("keras",)  # what the reference system left too
    has_l2: ClassVar[bool] = True
    one_size: ClassVar[bool] = True

    @property
    def smallest(self) -> int:
        """As `NetworkSpec.smallest`: it halves them five times."""
        return 1 << 5

    def build(self, classes: int, size: int) -> "Network":
        """As `NetworkSpec.build`."""
        from tenfold.training.networks.reference import Reference

        if size < self.smallest:
            least = self.smallest
            raise UsageError(f"{size}×{size} images are too small for the reference network: {least} is the least")
        return Reference(self, classes, size)


@register_network("whitened")
class WhitenedSpec(NetworkSpec):
    """The fast network as plain data."""

    widths: Annotated[tuple[Width, ...], Field(min_length=1, max_length=10)] = (32, 128, 256)
    """Channels of each group; a group halves the image's side."""
    depth: Annotated[int, Field(ge=1, le=16)] = 2
    """Convolutions in each group."""
    residual: bool = False
    """In each group, add what the first convolution gave to what the last one gave, before the activation."""
    whitening: Annotated[int, Field(ge=1, le=16)] = 3
    """Side of the patches that the fixed first layer whitens, in pixels."""
    whitening_pairs: Positive = 16
    """Principal patches kept; each gives two channels, the patch and its negative."""
    stride: Annotated[int, Field(ge=1, le=16)] = 1
    """Step of the first layer, in pixels."""
    first_activation: Literal["gelu", "relu"] = "gelu"
    """Behind the first layer, the largest: `relu` moves less memory, and of a patch and its negative one passes."""
    head_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Logits are the head's output times this, over its number of inputs."""
    batch_norm_momentum: Share = 0.4
    """Weight of the batch in batch norm's running statistics at each step, as PyTorch means it."""

    can_freeze: ClassVar[bool] = True
    initial_images: ClassVar[int] = 2000

    @pydantic.model_validator(mode="after")
    def _has_enough_patches(self) -> "WhitenedSpec":
        patches = 3 * self.whitening**2
        if self.whitening_pairs > patches:
            raise ValueError(f"network.whitening_pairs: patches of this size have only {patches}")
        return self

    @property
    def smallest(self) -> int:
        """As `NetworkSpec.smallest`."""
        return next(pixels for pixels in itertools.count(self.whitening) if self._last_side(pixels))

    def _last_side(self, pixels: int) -> int:
        """Pixels a side behind the last group, at the least, of images of `pixels` a side; 0 for too few."""
        if pixels < self.whitening:
            return 0
        return (pixels - (self.whitening + 1) % 2) // self.stride >> len(self.widths)  # an even side loses a pixel

    def build(self, classes: int, size: int) -> "Network":
        """As `NetworkSpec.build`."""
        from tenfold.training.networks.whitened import WhitenedConvNet

        if self._last_side(size) == 0:
            raise UsageError(f"{size}×{size} images are too small for {plural(len(self.widths), 'group')}")
        return WhitenedConvNet(self, classes)

    def proxy(self, widths: tuple[int, ...]) -> "WhitenedSpec":
        """Two convolutions a group, without shortcuts."""
        return replace(self, widths=widths, depth=2, residual=False)


@register_network("efficientnet-lite0")
class EfficientNetLite0Spec(NetworkSpec):
    """The pretrained network as plain data."""

    weights: Literal["imagenet", "random"] = "imagenet"
    """What training starts from: `imagenet` needs the extra `pretrained`."""
    frozen_blocks: Annotated[int, Field(ge=0, le=16)] = 0
    """Blocks, the first ones, that fine-tuning keeps as they are; with any, the stem stays, too."""

    has_linear_head: ClassVar[bool] = True
    float32_on_cpu: ClassVar[bool] = True  # depthwise convolutions: backwards 1.8 times as fast as in bfloat16
    usual_size: ClassVar[int] = 160
    # as the weights were trained: (value − 127) / 128
    normalization: ClassVar = ((127 / 255,) * 3, (128 / 255,) * 3)

    @property
    def smallest(self) -> int:
        """As `NetworkSpec.smallest`: it halves them five times."""
        return 32

    @property
    def pretrained(self) -> "PretrainedWeights | None":
        """As `NetworkSpec.pretrained`."""
        from tenfold.training.networks.efficientnet_lite0 import IMAGENET

        return IMAGENET if self.weights == "imagenet" else None

    def build(self, classes: int, size: int) -> "Network":
        """As `NetworkSpec.build`."""
        from tenfold.training.networks.efficientnet_lite0 import EfficientNetLite0

        if size < self.smallest:
            raise UsageError(f"{size}×{size} images are too small for EfficientNet-Lite0: {self.smallest} is the least")
        return EfficientNetLite0(self, classes, size)
