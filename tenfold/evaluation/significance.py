"""Whether runs differ: McNemar's test of two on the same images, and Holm's correction for several tests."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tenfold.evaluation.metrics import Z95


class Paired(NamedTuple):
    """Two models on the same images: how many only the first classifies correctly, and only the second.

    difference: of their accuracies, second − first, with its 95 % `interval`; p: McNemar's exact test (1947).
    """

    only_first: int
    only_second: int
    difference: float
    interval: tuple[float, float]
    p: float


def compare_pair(first: np.ndarray, second: np.ndarray) -> Paired:
    """Compare two models by their correct predictions, bool N each, on the same N ≥ 1 images."""
    from scipy.special import bdtr

    n, only_first, only_second = len(first), int((first & ~second).sum()), int((second & ~first).sum())
    differing = only_first + only_second
    p = min(1.0, 2 * float(bdtr(min(only_first, only_second), differing, 0.5))) if differing else 1.0
    difference = (only_second - only_first) / n
    half = Z95 * math.sqrt(max(0.0, differing / n - difference**2) / n)
    return Paired(only_first, only_second, difference, (difference - half, difference + half), p)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of several tests, corrected for multiple comparisons (Holm, 1979)."""
    raised, largest = [0.0] * len(p_values), 0.0
    for place, number in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[number]))
        raised[number] = largest
    return raised
