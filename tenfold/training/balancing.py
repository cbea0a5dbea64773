"""How rare classes are made up for: not at all, in the loss, or by sampling; decided on held-out images on request."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

import numpy as np

from tenfold.console import log_info
from tenfold.data.dataset import Dataset, Split
from tenfold.errors import UsageError, did_you_mean
from tenfold.training.augment import derive_seed
from tenfold.training.device import DeviceConfig
from tenfold.training.halves import can_halve, halves, predict_half
from tenfold.training.holdout import split
from tenfold.training.imbalance import has_rare_classes
from tenfold.training.recipe import Recipe

Balance = Literal["none", "loss", "sampling", "auto"]
BALANCES: tuple[Balance, ...] = get_args(Balance)
POWER = 0.5
"""Of largest / own count: between every image alike and every class alike (docs/log.md)."""
MOST_TO_TRY = 2000
"""Training images that a trial uses, drawn class by class."""


def check_balance(balance: str | None) -> Balance | None:
    """The same, if it is one of `BALANCES`. Raises `UsageError`."""
    found: Balance | None = next((known for known in BALANCES if known == balance), None)
    if balance is not None and found is None:
        known = f"{', '.join(BALANCES[:-1])} or {BALANCES[-1]}"
        raise UsageError(f"balance must be {known}, not {balance!r}{did_you_mean(balance, BALANCES)}")
    return found


def with_balance(recipe: Recipe, balance: Balance) -> Recipe:
    """The recipe with rare classes made up for in one way only."""
    sampling = recipe.oversample or POWER if balance == "sampling" else 0.0
    return replace(recipe, oversample=sampling, class_weight=POWER if balance == "loss" else 0.0)


def decide_balance(
    recipe: Recipe, balance: Balance | None, dataset: Dataset, seed: int, device_config: DeviceConfig
) -> Recipe:
    """The recipe balanced as asked for; `auto` takes the way with the best mean recall on held-out images.

    Each half of up to `MOST_TO_TRY` training images is predicted by a network trained on the other half, a pretrained
    one by its head alone. What was found is logged. Without a `balance`, or rare classes, the recipe stays as it is.
    """
    if balance is None:
        return recipe
    train = split(dataset, recipe, seed)[0]
    if not has_rare_classes(train.labels):
        log_info("no class is rare (with fewer than half the images of the largest): nothing is balanced")
        return recipe
    if balance != "auto":
        return with_balance(recipe, balance)
    if not can_halve(train):
        log_info("balance: the recipe's own, since a class has a single image, too few to try others")
        return recipe
    return _choose(recipe, dataset, _some(train, seed), seed, device_config)


def _choose(recipe: Recipe, dataset: Dataset, train: Split, seed: int, device_config: DeviceConfig) -> Recipe:
    tried = replace(recipe, fine_tune="off") if recipe.head_init == "logistic" else recipe
    parts = halves(train, seed)
    recalls = {}
    for balance in BALANCES[:-1]:
        balanced = with_balance(tried, balance)
        predicted = [
            predict_half(balanced, dataset, train[one], train[other], seed, device_config) for one, other in parts
        ]
        labels = np.concatenate([part.numpy() for _, part in predicted])
        right = np.concatenate([logits.numpy().argmax(1) for logits, _ in predicted]) == labels
        recalls[balance] = mean_recall(right, labels)
    best = max(recalls, key=recalls.__getitem__)
    found = ", ".join(f"{name} {recall:.1%}" for name, recall in recalls.items())
    log_info(f"balance {best}: mean recall of the classes, trained on halves, on the other half: {found}")
    return with_balance(recipe, best)


def mean_recall(right: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes of the share of their images that is right: bool N, int N."""
    counts = np.bincount(labels)
    return float((np.bincount(labels, right)[counts > 0] / counts[counts > 0]).mean())


def _some(train: Split, seed: int) -> Split:
    """At most `MOST_TO_TRY` images, of every class its share, and two at the least."""
    share = MOST_TO_TRY / len(train)
    if share >= 1:
        return train
    drawn = np.random.default_rng(derive_seed(seed, "balance"))
    kept = [_draw(np.flatnonzero(train.labels == label), share, drawn.permutation) for label in np.unique(train.labels)]
    return train[np.sort(np.concatenate(kept))]


def _draw(numbers: np.ndarray, share: float, shuffle: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return shuffle(numbers)[: max(2, round(len(numbers) * share))]
