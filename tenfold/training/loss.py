"""The loss of a batch, each image's by its weight where a label file gives weights. Legend: B images, K classes."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tenfold.data.dataset import Split


def loss_weights(part: Split) -> Tensor | None:
    """Factors of the images' losses, float32 N with mean 1; None where all are the same: the bits are as without."""
    if part.weights is None or len(np.unique(part.weights)) == 1:
        return None
    return torch.from_numpy((part.weights / part.weights.mean()).astype(np.float32))


def image_losses(logits: Tensor, labels: Tensor, weights: Tensor | None, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of each image, float32 B, by its weight: of logits float32 B×K, labels int64 B."""
    losses = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
    return losses if weights is None else losses * weights


def batch_loss(logits: Tensor, labels: Tensor, weights: Tensor | None, smoothing: float = 0.0) -> Tensor:
    """Mean of `image_losses`."""
    if weights is None:  # PyTorch's own mean: the bits of a run without weights
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
    return image_losses(logits, labels, weights, smoothing).mean()
