"""The loss of a batch, each image's by its weight where there are weights. Legend: B images, K classes."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tenfold.data.dataset import Split
from tenfold.training.imbalance import class_factors


def loss_weights(part: Split, class_weight: float = 0.0) -> Tensor | None:
    """Factors of the images' losses, float32 N with mean 1; None where all are the same: the bits are as without.

    class_weight: see `Recipe.class_weight`.
    """
    factors = class_factors(part.labels, class_weight)
    if part.weights is not None:
        factors = factors * part.weights
    if len(np.unique(factors)) == 1:
        return None
    return torch.from_numpy((factors / factors.mean()).astype(np.float32))


def image_losses(logits: Tensor, labels: Tensor, weights: Tensor | None, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of each image, float32 B, by its weight: of logits float32 B×K, labels int64 B."""
    losses = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
    return losses if weights is None else losses * weights


def batch_loss(logits: Tensor, labels: Tensor, weights: Tensor | None, smoothing: float = 0.0) -> Tensor:
    """Mean of `image_losses`."""
    if weights is None:  # PyTorch's own mean: the bits of a run without weights
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
    return image_losses(logits, labels, weights, smoothing).mean()
