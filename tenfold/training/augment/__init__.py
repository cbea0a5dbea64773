"""Augmentation of training images, normalisation, and the views of an image at test time.

One file for each augmentation; `register_augmentation` adds others.
"""

from tenfold.training.augment.affine import Affine
from tenfold.training.augment.cutout import Cutout
from tenfold.training.augment.flip import Flip
from tenfold.training.augment.gather import PixelChoice, gather
from tenfold.training.augment.keys import derive_seed, make_generator
from tenfold.training.augment.normalization import Normalization, channel_stats, downsample
from tenfold.training.augment.pipeline import AugmentParams, Pipeline, make_batch
from tenfold.training.augment.translate import Translate
from tenfold.training.augment.views import VIEWS, View, tta_view
from tenfold.training.augmentation import (
    AUGMENTATIONS,
    AnyAugmentation,
    Augmentation,
    Epoch,
    register_augmentation,
)

__all__ = [
    "AUGMENTATIONS",
    "VIEWS",
    "Affine",
    "AnyAugmentation",
    "AugmentParams",
    "Augmentation",
    "Cutout",
    "Epoch",
    "Flip",
    "Normalization",
    "Pipeline",
    "PixelChoice",
    "Translate",
    "View",
    "channel_stats",
    "derive_seed",
    "downsample",
    "gather",
    "make_batch",
    "make_generator",
    "register_augmentation",
    "tta_view",
]
