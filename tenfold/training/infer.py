"""The one path from images to logits without gradients: validation, scores and reports all take it."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tenfold.training.augment import VIEWS, Normalization, View, tta_view
from tenfold.training.device import DeviceConfig
from tenfold.training.images import ImageTensor

BATCH_SIZE = 500
"""Images at a time: as many as a step of the fast recipes, whose buffers are used again. More take no less time."""
LARGE_SIDE = 32
"""Pixels a side: of larger images fewer are taken at a time, for their memory."""


OnBatch = Callable[[float], None]


class Logits(NamedTuple):
    """float32 N×K on the CPU: of the plain image, and averaged over the test-time views."""

    single: Tensor
    averaged: Tensor


@torch.no_grad()
def predict_logits(
    model: nn.Module,
    images: ImageTensor,
    normalization: Normalization,
    device_config: DeviceConfig,
    views: str = "one",
    tta_fraction: float = 1.0,
    on_batch: OnBatch = lambda share: None,
) -> Logits:
    """Compute logits of uint8 N×H×W×3; the model is left in the mode it came in.

    Every image is seen once as it is. The share `tta_fraction` of them whose two best logits lie closest together is
    seen in the other `views` too, which gives most of the gain for part of the price. `on_batch` is called after every
    batch for how many of the N images' worth of the work it stands.
    """
    was_training = model.training
    model.eval()
    try:

        def see(numbers: Tensor, view: View, tell: OnBatch) -> Tensor:
            return _run(model, images, numbers, normalization, device_config, view, tell)

        return average_views(see, len(images), views, tta_fraction, on_batch)
    finally:
        model.train(was_training)


def average_views(
    see: Callable[[Tensor, View, OnBatch], Tensor], count: int, views: str, tta_fraction: float, on_batch: OnBatch
) -> Logits:
    """Logits of N = `count` images, as `predict_logits` says.

    see: the logits, float32 M×K, of the images of these numbers (int64 M) in a view; it tells of how many it has done.
    """
    plain, *others = VIEWS[views]
    again = round(tta_fraction * count) * len(others)

    def tell(seen: float) -> None:
        on_batch(seen * count / (count + again))

    single = see(torch.arange(count), plain, tell)
    averaged = single.clone()
    unsure = least_confident(single, tta_fraction) if others else torch.empty(0, dtype=torch.int64)
    if len(unsure):
        total = plain[0] * single[unsure]
        for view in others:
            total += view[0] * see(unsure, view, tell)
        averaged[unsure] = total
    return Logits(single, averaged)


def batch_size_for(side: int) -> int:
    """How many images of `side`×`side` pixels to take at a time."""
    return max(1, min(BATCH_SIZE, BATCH_SIZE * LARGE_SIDE**2 // side**2))  # 20 of 160 pixels


def least_confident(logits: Tensor, share: float) -> Tensor:
    """Numbers (int64) of the `share` of N×K logits with the smallest gap between the best two, in rising order."""
    best = logits.topk(2, dim=1).values
    count = round(share * len(logits))
    return (best[:, 0] - best[:, 1]).argsort(stable=True)[:count].sort().values


def _run(
    model: nn.Module,
    images: ImageTensor,
    numbers: Tensor,
    normalization: Normalization,
    device_config: DeviceConfig,
    view: View,
    tell: OnBatch,
) -> Tensor:
    """Logits of the images of these numbers, int64 M: batch by batch, so that no copy of all is made."""
    _, mirrored, shift = view
    parts = []
    for some in numbers.to(images.device).split(batch_size_for(images.shape[1])):
        batch = images[some]
        seen = tta_view(batch.to(device_config.device), mirrored, shift)
        with device_config.autocast():
            parts.append(model(normalization.normalize(seen)).float().cpu())
        tell(len(batch))
    return torch.cat(parts)
