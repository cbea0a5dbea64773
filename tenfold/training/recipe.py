"""Recipes: everything that decides a training run, as one page of data.

A recipe is a frozen dataclass; variants change a few fields of another. It goes to JSON and comes back strictly: an
unknown field or a value of the wrong type is named, not ignored. Reading one needs no torch.
"""

import json
import math
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic
from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass

from tenfold.errors import UsageError
from tenfold.files import to_utf8
from tenfold.training.aliases import with_current_names
from tenfold.training.augmentation import AnyAugmentation, Augmentation
from tenfold.training.networks import AnyNetwork
from tenfold.training.spec import STRICT, Owner, Positive, Share, Width, first_error, names_of_fields

if TYPE_CHECKING:
    from tenfold.training.augment import Pipeline

MOST_BYTES = 1_000_000
MOST_EPOCHS = 100_000
FEWEST_IN_BATCH = 32
FEWEST_TO_PRUNE = 10_000
"""Images: of fewer, leaving the easy ones out costs accuracy (docs/log.md)."""
FEWEST_FOR_LOW_RES = 2_000
"""Images: of fewer, a start at low resolution saves seconds and costs accuracy (docs/log.md)."""
USUAL_SIDE = 32
"""Pixels a side of the images that recipes are made for."""
Count = Annotated[int, Field(ge=0)]
Side = Annotated[int, Field(ge=0, le=1024)]
Rate = Annotated[float, Field(ge=0, le=1e38)]
FineTune = Literal["auto", "on", "off"]
Degrees = Annotated[float, Field(ge=0, le=180)]


@dataclass(frozen=True, config=STRICT)
class Stage:
    """A stretch of training with one optimizer state and a learning rate that goes straight from a to b."""

    epochs: Annotated[float, Field(gt=0, le=MOST_EPOCHS)]
    """How long it is; fractions count."""
    learning_rate: Annotated[float, Field(gt=0, le=1e38)]
    """At its first step: of the filters under `muon`, of all parameters under `adam`."""
    final_learning_rate: Rate
    """At its end."""


@dataclass(frozen=True, config=STRICT)
class Recipe:
    """The hyperparameters of a run. Shapes: batches of B images, H×W pixels, K classes."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]{0,63}$")]
    """Letters, digits, `_`, `-` and dots: it becomes part of a path."""
    network: AnyNetwork
    """Architecture: `{"name": "whitened", "widths": [64, 128, 256]}`, with the fields of that network (below)."""
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    """Stretches of training, one after the other, each with a linear learning rate schedule."""
    batch_size: Positive = 500
    """Images in each optimizer step."""
    optimizer: Literal["muon", "adam", "adamw"] = "muon"
    """`muon`: orthogonalised momentum for filters, Nesterov SGD for the rest; `adam`: Adam as Keras computes it;
    `adamw`: Adam with decoupled weight decay."""
    momentum: Share = 0.6
    """Of the filters under `muon`."""
    bias_lr: Rate = 0.053
    """Peak learning rate of biases under `muon`, per image of the batch."""
    head_lr: Rate = 0.67
    """Peak learning rate of the head under `muon`, per image of the batch."""
    sgd_momentum: Share = 0.85
    """Of biases and head under `muon`."""
    weight_decay: Rate = 2e-6
    """Weight decay: under `muon` of biases and head, per image of the batch; under `adamw` of all."""
    whiten_bias_epochs: Rate = 3.0
    """How long the first layer's bias is trained; its rate falls to zero meanwhile."""
    label_smoothing: Share = 0.0
    """Share of the target probability that is spread evenly over all classes."""
    l2: Rate = 0.0
    """Weight of the squared kernels in the loss: those that the network names (`Network.l2_parameters`)."""
    normalize: bool = True
    """Subtract the training pixels' mean and divide by their standard deviation; else pixels are just in [0, 1]."""
    flip: Literal["none", "random", "alternating"] = "alternating"
    """`alternating`: each image is mirrored every other epoch, so that two epochs show both sides."""
    translate: Side = 2
    """Largest translation in whole pixels, the border mirrored."""
    degrees: Degrees = 0.0
    """Largest rotation in degrees."""
    affine_translate: Share = 0.0
    """Largest translation as a share of the side, bilinear together with the rotation, the border repeated."""
    cutout: Side = 0
    """Side of a square that is greyed out, in pixels."""
    augmentations: tuple[AnyAugmentation, ...] = ()
    """Further augmentations, in this order: `[{"name": "brightness", "amount": 0.2}]`, as plugins register them."""
    low_res_fraction: Share = 0.0
    """Share of the steps, the first ones, that see the images shrunk to `low_res_size` pixels a side."""
    low_res_size: Side = 16
    """Side of the downsampled images, in pixels."""
    prune_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Data pruning: share of the images that every cycle but the first leaves out, those of the smallest last loss."""
    proxy_widths: Annotated[tuple[Width, ...], Field(max_length=10)] = ()
    """Channels of the groups of a proxy: a small network, trained beside, that sees every batch's candidates as they
    come, augmented, at `low_res_size`, and prunes the easier ones."""
    proxy_prune_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the candidates of a batch that the proxy prunes, or less where there are too few images."""
    oversample: Share = 0.0
    """Images of rare classes (of fewer than half as many as the largest) come (largest / own count)^p times as often,
    where p is this: 0.5 is square-root sampling."""
    class_weight: Share = 0.0
    """Images of rare classes count (largest / own count)^p times as much in the loss, where p is this."""
    freeze_fraction: Share = 0.0
    """Share of the steps, the last ones, in which the network's first parameters stay as they are."""
    images: Positive = 50_000
    """Training images that epochs and batches are meant for; a folder of fewer gets a recipe that is fitted to it."""
    head_init: Literal["random", "logistic"] = "random"
    """What the head begins with: `logistic` fits a logistic regression to the network's features of the training
    images, which is for pretrained networks."""
    fine_tune: FineTune = "on"
    """Whether the stages are trained behind a `logistic` head: `auto` does so unless that is clearly worse on held-out
    images."""
    val_size: Count = 0
    """Training images held out for validation."""
    val_split: Literal["last", "random"] = "last"
    """Which training images are held out: the last ones, or some drawn by the seed."""
    tta: Literal["one", "mirror", "six"] = "six"
    """Test-time views: the image; and its mirror image; and both shifted by a pixel along the diagonal."""
    tta_fraction: Share = 1.0
    """Share of the images, the least confident ones, that get more than one view."""

    @pydantic.model_validator(mode="after")
    def _fits_the_network(self) -> "Recipe":
        network = self.network
        if self.low_res_fraction and network.one_size:
            raise ValueError(f"low_res_fraction: network {network.name!r} takes images of one size only")
        if self.low_res_fraction and self.low_res_size < network.smallest:
            needed = f"network {network.name!r} needs {network.smallest} or more"
            raise ValueError(f"low_res_size: {self.low_res_size} pixels are too few: {needed}")
        if self.freeze_fraction and not network.can_freeze:
            raise ValueError(f"freeze_fraction: network {network.name!r} has no first group that can be kept")
        if self.l2 and not network.has_l2:
            raise ValueError(f"l2: network {network.name!r} has no such term; use weight_decay")
        if self.head_init == "logistic" and not network.has_linear_head:
            raise ValueError(f"head_init: network {network.name!r} has no features for a logistic regression")
        if self.fine_tune != "on" and self.head_init != "logistic":
            raise ValueError(
                f"fine_tune: {self.fine_tune!r} is for head_init 'logistic': else there is nothing to keep"
            )
        if self.proxy_widths:
            self._fits_the_proxy()
        if self.proxy_prune_fraction and not self.proxy_widths:
            raise ValueError("proxy_prune_fraction: it takes a proxy (proxy_widths)")
        if self.uses_proxy and self.prune_fraction:
            raise ValueError("prune_fraction: the proxy prunes already (proxy_prune_fraction)")
        return self

    def _fits_the_proxy(self) -> None:
        proxy = self.network.proxy(self.proxy_widths)
        if proxy is None:
            raise ValueError(f"proxy_widths: network {self.network.name!r} can have no proxy beside it")
        if self.low_res_size < proxy.smallest:
            needed = f"the proxy needs {proxy.smallest} or more"
            raise ValueError(f"low_res_size: {self.low_res_size} pixels are too few: {needed}")

    @property
    def pipeline(self) -> "Pipeline":
        """All augmentations that it asks for."""
        from tenfold.training.augment import Affine, Cutout, Flip, Pipeline, Translate  # here, because they need torch

        flip = [Flip(kind=self.flip)] if self.flip != "none" else []
        translate = [Translate(pixels=self.translate)] if self.translate else []
        cutout = [Cutout(side=self.cutout)] if self.cutout else []
        # flip and translation are one gather; an affine map is resampled in float, and flipped afterwards
        built_in: list[Augmentation] = [*flip, *translate]
        if self.degrees or self.affine_translate:
            built_in = [*translate, Affine(degrees=self.degrees, translate=self.affine_translate), *flip]
        return Pipeline((*built_in, *cutout), self.augmentations)

    @property
    def uses_proxy(self) -> bool:
        """Whether a proxy prunes: it takes widths, and something to prune."""
        return bool(self.proxy_widths) and self.proxy_prune_fraction > 0

    @property
    def epochs(self) -> float:
        """Epochs of all stages together."""
        return sum(stage.epochs for stage in self.stages)

    @property
    def trained_epochs(self) -> float:
        """Epochs that are trained: without fine-tuning none."""
        return 0.0 if self.fine_tune == "off" else self.epochs

    def with_epochs(self, epochs: float) -> "Recipe":
        """Stretch or shrink the stages so that they take `epochs` together, each keeping its share."""
        if not 0 < epochs <= MOST_EPOCHS:
            raise UsageError(f"--epochs must be more than 0 and at most {MOST_EPOCHS:,}, not {epochs:g}")
        ratio = epochs / self.epochs
        stages = tuple(replace(stage, epochs=stage.epochs * ratio) for stage in self.stages)
        return replace(self, stages=stages)

    def with_val_size(self, val_size: int) -> "Recipe":
        """Hold out the last `val_size` training images."""
        if val_size < 0:
            raise UsageError(f"--val-size must be 0 or more, not {val_size}")
        return replace(self, val_size=val_size, val_split="last")

    def for_images(self, images: int, rare_classes: bool = False) -> "Recipe":
        """Fit the recipe to fewer training images than it is meant for, so that it still takes enough steps.

        With r = √(the recipe's images / `images`), a batch is r times smaller (32 images at the least) and epochs are r
        times as many: about as many steps as on CIFAR-10, each r times cheaper. Of a small data set no image is easy
        enough to leave out, unless `rare_classes` need the time, and all are seen at full size from the beginning.
        docs/log.md has what was tried.
        """
        ratio, prunes = math.sqrt(max(1.0, self.images / images)), images >= FEWEST_TO_PRUNE or rare_classes
        return replace(
            self.with_epochs(min(self.epochs * ratio, MOST_EPOCHS)),
            batch_size=min(self.batch_size, max(FEWEST_IN_BATCH, round(self.batch_size / ratio))),
            whiten_bias_epochs=self.whiten_bias_epochs * ratio,
            low_res_fraction=0.0 if images < min(self.images, FEWEST_FOR_LOW_RES) else self.low_res_fraction,
            val_size=round(self.val_size / ratio**2),
            prune_fraction=self.prune_fraction if prunes else 0.0,
            proxy_prune_fraction=self.proxy_prune_fraction if prunes else 0.0,
            images=min(self.images, images),
        )

    def for_size(self, size: int) -> "Recipe":
        """Fit the recipe to images of fewer pixels a side than its network is for; fitted again, it stays.

        Images are not shrunk to more pixels than they have; shifts are at most an eighth of the side, and a pixel; what
        is cut out is at most three eighths of it, as in `fast96`. Raises `UsageError` where the network needs more.
        """
        if size < self.network.smallest:
            needs = f"its network needs images of {self.network.smallest} pixels a side or more"
            raise UsageError(f"recipe {self.name}: {needs}, not {size}: choose another recipe or --size")
        if size >= self.network.usual_size:
            return self
        starts_small = self.low_res_fraction > 0 and self.low_res_size <= size
        return replace(
            self,
            translate=min(self.translate, max(1, size // 8)),
            cutout=min(self.cutout, 3 * size // 8),
            low_res_fraction=self.low_res_fraction if starts_small else 0.0,
            low_res_size=min(self.low_res_size, size) if self.proxy_widths else self.low_res_size,
        )

    def changes(self, other: "Recipe") -> str:
        """Fields that another recipe has other values for, as `translate 1 instead of 4`."""
        names = (field.name for field in fields(self) if getattr(self, field.name) != getattr(other, field.name))
        return ", ".join(f"{name} {getattr(other, name)} instead of {getattr(self, name)}" for name in names)

    def to_json(self) -> str:
        """The recipe as indented JSON, every field named."""
        return _ADAPTER.dump_json(self, indent=2).decode() + "\n"

    @staticmethod
    def from_json(text: str | bytes, source: str = "recipe", trained: bool = False) -> "Recipe":
        """Read a recipe; `source` names it in errors. Raises `UsageError` that names the first wrong field.

        trained: whether it is a run's, see `aliases.with_current_names`.
        """
        try:
            current = with_current_names(to_utf8(text) if isinstance(text, bytes) else text, trained)
            return _ADAPTER.validate_json(current, strict=True)
        except UnicodeDecodeError as error:
            raise UsageError(f"{source}: begins as {error.encoding} text, but is not: save it as UTF-8") from error
        except pydantic.ValidationError as error:
            raise UsageError(f"{source}: {first_error(error, owners=_OWNERS)}") from error


_ADAPTER = TypeAdapter(Recipe)
BASE = "base"
"""Key of a recipe file: a built-in recipe, or the path of another file, relative to this one."""
_OWNERS = (
    Owner("a recipe", [*names_of_fields(Recipe), BASE], f', or a base that has it ("{BASE}": "fast89")'),
    Owner("a stage", names_of_fields(Stage)),
)


def with_defaults(value: Any) -> Any:
    """A recipe noted as plain data, fields that came since then at their defaults; unchanged where it is none."""
    try:
        return json.loads(Recipe.from_json(json.dumps(value)).to_json())
    except UsageError:
        return value
