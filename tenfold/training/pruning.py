"""Which of some images are worth training on: those of the largest losses, and of every class its own share.

A loss alone may starve a rare class: once learned, its losses are the smallest, and an image that never comes again is
forgotten (docs/log.md has what that cost). So every class keeps the hardest of its own images, too.
"""

import torch
from torch import Tensor

CLASS_SHARE = 0.5
"""Where a share of all images is kept, at least so much of that share is kept of each class: of 40 %, 20 %."""


def class_minimum(labels: Tensor, keep_fraction: float) -> Tensor:
    """How many images of each class must be kept, int64 K, where `keep_fraction` of all N (labels int64 N) are kept."""
    return (labels.bincount() * keep_fraction * CLASS_SHARE).ceil().long()


def top_loss_indices(losses: Tensor, labels: Tensor, count: int, minimum: Tensor) -> Tensor:
    """Where the `count` images to keep are: int64, ascending; of equal losses the first.

    Of every class the `minimum` (int64 K) hardest, then the hardest of all others. losses: float N; labels: int64 N.
    Where the classes' minimums together are more than `count`, the hardest of them.
    """
    order = losses.argsort(descending=True, stable=True)
    by_class = order[labels[order].argsort(stable=True)]
    counts = labels.bincount(minlength=len(minimum))
    rank = torch.arange(len(losses), device=losses.device) - (counts.cumsum(0) - counts)[labels[by_class]]
    owed = torch.zeros_like(labels, dtype=torch.bool).scatter_(0, by_class, rank < minimum[labels[by_class]])
    owed_first = order[owed[order].byte().argsort(descending=True, stable=True)]
    return owed_first[:count].sort().values
