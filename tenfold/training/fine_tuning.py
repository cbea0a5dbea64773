"""Whether to fine-tune a pretrained network behind its logistic head: decided on training images that are held out."""

import copy
import time
from dataclasses import replace

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from tenfold.console import log_info
from tenfold.data.dataset import Dataset, Split
from tenfold.training.device import DeviceConfig
from tenfold.training.halves import can_halve, halves, predict_half
from tenfold.training.holdout import split
from tenfold.training.recipe import FineTune, Recipe
from tenfold.training.trainer import Trainer

MOST_TO_TRY = 500
"""Training images: with more, trying would double a time that is long already, and fine-tuning is likely to help: it
did so in every draw that was tried (docs/log.md)."""


FINE_TUNED: tuple[FineTune, FineTune] = ("off", "on")


def decide_fine_tuning(recipe: Recipe, dataset: Dataset, seed: int, device_config: DeviceConfig) -> Recipe:
    """The recipe with `fine_tune` on or off instead of auto.

    Up to `MOST_TO_TRY` images are split in two halves; each is predicted by a network that was trained on the other,
    with the head alone and fine-tuned. Fine-tuning is on unless more images are right without it, or as many at a
    smaller loss. What was found is logged.
    """
    if recipe.fine_tune != "auto":
        return recipe
    train = split(dataset, recipe, seed)[0]
    if len(train) > MOST_TO_TRY or not can_halve(train):
        log_info(f"fine-tuning on: it is tried first for at most {MOST_TO_TRY} images, two or more of each class")
        return replace(recipe, fine_tune="on")
    found = [_try(recipe, dataset, train[one], train[other], seed, device_config) for one, other in halves(train, seed)]
    (right, loss), (tuned_right, tuned_loss) = np.sum(found, axis=0).tolist()
    helps = (tuned_right, -tuned_loss) > (right, -loss)
    log_info(
        f"fine-tuning {'on' if helps else 'off'}: trained on halves, {right / len(train):.1%} of the other half right "
        f"with the head alone, {tuned_right / len(train):.1%} fine-tuned"
    )
    return replace(recipe, fine_tune="on" if helps else "off")


def announce(trainer: Trainer) -> None:
    """Log how long fine-tuning is about to take, by one step of a copy."""
    if trainer.recipe.head_init == "logistic" and not trainer.done:
        left = (trainer.schedule.total - trainer.step) * trainer.schedule.batch_size
        seconds = left * _seconds_an_image(trainer) / trainer.dist.count
        log_info(f"fine-tuning: {left:,} passes of an image, about {seconds:.0f} s")


def _seconds_an_image(trainer: Trainer) -> float:
    count = min(trainer.schedule.batch_size, len(trainer.images))
    images, labels = trainer.normalization.normalize(trainer.images[:count]), trainer.labels[:count]
    network, seconds = copy.deepcopy(trainer.network), 0.0  # norms would note the batch
    for _ in range(2):  # the first one sets up
        began = time.perf_counter()
        with trainer.device_config.autocast():
            loss = F.cross_entropy(network(images).float(), labels)
        loss.backward()
        loss.item()
        seconds = time.perf_counter() - began
    return seconds / count


def _try(
    recipe: Recipe, dataset: Dataset, train: Split, val: Split, seed: int, device_config: DeviceConfig
) -> tuple[tuple[int, float], tuple[int, float]]:
    """Images of `val` that are right, and the sum of their losses: with the head alone, and fine-tuned."""
    plain, tuned = (
        _score(*predict_half(replace(recipe, fine_tune=fine_tune), dataset, train, val, seed, device_config))
        for fine_tune in FINE_TUNED
    )
    return plain, tuned


def _score(logits: Tensor, labels: Tensor) -> tuple[int, float]:
    return int((logits.argmax(1) == labels).sum()), float(F.cross_entropy(logits, labels, reduction="sum"))
