"""Rare classes: their images come more often, so that a folder of unequal classes is learned in all of them.

Square-root sampling (Mahajan et al., 2018) stands between every image alike, where a rare class is drowned, and every
class alike, where its few images are learned by heart. docs/log.md has what was tried.
"""

import numpy as np
import torch
from torch import Tensor

from tenfold.data.dataset import Split
from tenfold.training.recipe import Recipe

RARE_FRACTION = 0.5
"""A class of fewer images than this fraction of the largest one's is rare; among others, counts are left alone."""


def has_rare_classes(labels: np.ndarray) -> bool:
    """Whether a class that has images at all is rare; labels: integers N ≥ 1."""
    counts = np.bincount(labels)
    return bool(((counts > 0) & (counts < RARE_FRACTION * counts.max())).any())


def fit_recipe(recipe: Recipe, train: Split, val_size: int = 0) -> Recipe:
    """Fit a recipe to the images of a data set: how many there are, and whether a class among them is rare.

    val_size: how many of them it holds out itself (`Dataset.val_size`).
    """
    return recipe.for_images(len(train) - val_size, has_rare_classes(train.labels))


def class_factors(labels: np.ndarray, power: float) -> np.ndarray:
    """By how much each image counts: (largest / own count)^`power` in rare classes, else 1. int N → float64 N."""
    counts = np.bincount(labels)
    ratios = counts.max() / np.maximum(counts, 1)
    factors: np.ndarray = np.where(counts < RARE_FRACTION * counts.max(), ratios, 1.0) ** power
    return factors[labels]


def oversample(labels: Tensor, power: float) -> Tensor:
    """Which images a cycle holds, int64 M ≥ N: all, then those of rare classes again, the first ones first.

    labels: int64 N. A rare class of n images, the largest having m, comes to n·(m/n)^`power`: 0 leaves it as it is, 0.5
    is square-root sampling, 1 makes it as large as the largest.
    """
    counts = labels.bincount()
    largest = int(counts.max())
    parts = [torch.arange(len(labels))]
    for label, count in enumerate(counts.tolist()):
        if 0 < count < RARE_FRACTION * largest:
            more = round(count * (largest / count) ** power) - count
            parts.append((labels == label).nonzero().flatten().repeat(-(-more // count))[:more])
    return torch.cat(parts)
