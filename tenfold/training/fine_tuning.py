"""Whether to fine-tune a pretrained network behind its logistic head: decided on training images that are held out."""

import math
from dataclasses import replace

import numpy as np

from tenfold.console import log_info
from tenfold.data.dataset import Dataset, Split
from tenfold.training.device import DeviceConfig
from tenfold.training.halves import can_halve, halves, predict_half
from tenfold.training.holdout import split
from tenfold.training.recipe import FineTune, Recipe

MOST_TO_TRY = 500
"""Training images: with more, trying would double a time that is long already, and fine-tuning is likely to help: it
did so in every draw that was tried (docs/log.md)."""


FINE_TUNED: tuple[FineTune, FineTune] = ("off", "on")


def decide_fine_tuning(recipe: Recipe, dataset: Dataset, seed: int, device_config: DeviceConfig) -> Recipe:
    """The recipe with `fine_tune` on or off instead of auto.

    Half of up to `MOST_TO_TRY` images are predicted by a network that the other half trained, with the head alone and
    fine-tuned. Fine-tuning is on unless it is `clearly_worse`: it gains less from half the images than from all, and
    few images tell little. What was found is logged.
    """
    if recipe.fine_tune != "auto":
        return recipe
    train = split(dataset, recipe, seed)[0]
    if len(train) > MOST_TO_TRY or not can_halve(train):
        log_info(f"fine-tuning on: it is tried first for at most {MOST_TO_TRY} images, two or more of each class")
        return replace(recipe, fine_tune="on")
    one, other = halves(train, seed)[0]
    right, tuned_right = _try(recipe, dataset, train[one], train[other], seed, device_config)
    off, fewer = clearly_worse(right, tuned_right), tuned_right.sum() < right.sum()
    why = ", which may be chance, and all images make more of it" if fewer and not off else ""
    log_info(
        f"fine-tuning {'off' if off else 'on'}: trained on half of the images, {right.mean():.1%} of the others are "
        f"right with the head alone, {tuned_right.mean():.1%} fine-tuned{why}"
    )
    return replace(recipe, fine_tune="off" if off else "on")


def clearly_worse(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether the second is right on fewer of the same images, bool N each: one-sided exact sign test, p < 0.05."""
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    n = only_first + only_second
    return sum(math.comb(n, k) for k in range(only_first, n + 1)) < 0.05 * 2**n


def _try(
    recipe: Recipe, dataset: Dataset, train: Split, val: Split, seed: int, device_config: DeviceConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Which images of `val` are right, bool N: with the head alone, and fine-tuned."""
    answers = (
        predict_half(replace(recipe, fine_tune=fine_tune), dataset, train, val, seed, device_config)
        for fine_tune in FINE_TUNED
    )
    plain, tuned = ((logits.argmax(1) == labels).numpy() for logits, labels in answers)
    return plain, tuned
