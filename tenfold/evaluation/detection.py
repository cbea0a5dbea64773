"""Metrics of a detector of unknown images: scores of known and of unknown ones, the larger, the less known."""

import math

import numpy as np


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """Probability that an unknown image scores higher than a known one, ties counted by half; scores float N and M.

    The area under the curve of true against false positives, of a detector of unknown images: 0.5 is chance.
    """
    ranked = np.sort(known)
    below, not_above = (np.searchsorted(ranked, unknown, side) for side in ("left", "right"))
    return float((below + not_above).mean() / (2 * len(known)))


def fpr_at_95(known: np.ndarray, unknown: np.ndarray) -> float:
    """Share of unknown images that pass for known where 95 % of the known ones do (FPR95); scores as for `auroc`."""
    ranked = np.sort(known)
    limit = ranked[max(0, math.ceil(0.95 * len(ranked)) - 1)]
    return float((unknown <= limit).mean())


def exact_interval(found: int, n: int) -> tuple[float, float]:
    """95 % interval of a share of `found` out of `n` (Clopper and Pearson, 1934); (0, 1) when n = 0.

    Never narrower than it says, at any n: for bounds that are promised.
    """
    from scipy.special import betaincinv

    low = float(betaincinv(found, n - found + 1, 0.025)) if found else 0.0
    high = float(betaincinv(found + 1, n - found, 0.975)) if found < n else 1.0
    return low, high
