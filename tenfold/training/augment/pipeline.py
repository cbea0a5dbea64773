"""A recipe's augmentations: sampled once an epoch, applied to every batch.

Training samples one `AugmentParams` an epoch from a key, so that after an interruption an epoch's come out the same.
Shapes: N images, B of them in a batch, H×W pixels; images are uint8 N×H×W×3 and reach the network as float B×3×H×W,
which is channels-last in memory without a copy.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from tenfold.training.augment.gather import PixelChoice, gather
from tenfold.training.augment.keys import make_generator
from tenfold.training.augment.normalization import Normalization, to_unit
from tenfold.training.augmentation import Augmentation, Epoch
from tenfold.training.images import ImageTensor


@dataclass(frozen=True)
class AugmentParams:
    """What was sampled for N images in one epoch.

    order: int64 N, image numbers in training order. built_in, others: augmentations with their parameters, a row for
    each image.
    """

    order: Tensor
    built_in: tuple[tuple[Augmentation, Tensor], ...] = ()
    others: tuple[tuple[Augmentation, Tensor], ...] = ()

    def to(self, device: torch.device) -> "AugmentParams":
        """Move all parameters to `device`."""
        built_in, others = (
            tuple((augmentation, params.to(device)) for augmentation, params in pairs)
            for pairs in (self.built_in, self.others)
        )
        return AugmentParams(self.order.to(device), built_in, others)

    def __getitem__(self, name: str) -> Tensor | None:
        """The parameters of the first augmentation of that name; None where there is none."""
        pairs = (*self.built_in, *self.others)
        return next((params for augmentation, params in pairs if augmentation.name == name), None)


@dataclass(frozen=True)
class Pipeline:
    """Augmentations in the order in which they are applied.

    built_in: those with fields of their own in a recipe, sampled from one generator after the other. others: those that
    a recipe lists, each with a generator of its own; they see values in [0, 1] unless they are `normalized`.
    """

    built_in: tuple[Augmentation, ...]
    others: tuple[Augmentation, ...] = ()

    def sample(self, count: int, size: int, seed: int, epoch: int) -> AugmentParams:
        """Draw order and parameters of `count` images of side `size` for one epoch."""
        shared = Epoch(count, size, seed, epoch, make_generator(seed, "augment", epoch))
        built_in = tuple((augmentation, augmentation.sample(shared)) for augmentation in self.built_in)
        others = []
        for place, augmentation in enumerate(self.others):
            generator = make_generator(seed, f"augment {place} {augmentation.name}", epoch)
            others.append((augmentation, augmentation.sample(Epoch(count, size, seed, epoch, generator))))
        order = torch.randperm(count, generator=make_generator(seed, "order", epoch))
        return AugmentParams(order, built_in, tuple(others))


def make_batch(images: ImageTensor, normalization: Normalization, params: AugmentParams, indices: Tensor) -> Tensor:
    """Cut the images numbered `indices` (int64 B) out of N×H×W×3, augmented as drawn: float32 B×3×H×W.

    What only chooses pixels and comes first costs one gather together.
    """
    built_in, others = (
        [(augmentation, values[indices]) for augmentation, values in pairs]
        for pairs in (params.built_in, params.others)
    )
    choices = []
    for augmentation, values in built_in:
        if not isinstance(augmentation, PixelChoice):
            break
        choices.append((augmentation, values))
    batch = to_unit(gather(images, indices, choices))
    batch = _apply(batch, (pair for pair in others if not pair[0].normalized))
    batch = _apply(normalization.standardize(batch), built_in[len(choices) :])
    return _apply(batch, (pair for pair in others if pair[0].normalized))


def _apply(batch: Tensor, pairs: Iterable[tuple[Augmentation, Tensor]]) -> Tensor:
    for augmentation, params in pairs:
        batch = augmentation.apply(batch, params)
    return batch
