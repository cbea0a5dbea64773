"""The distance threshold, and how well unknown images are distinguished from known ones."""

import numpy as np
import pytest
from scipy.stats import binom

from tenfold.errors import ModelError
from tenfold.evaluation import detection
from tenfold.evaluation.rejection import (
    Rejection,
    Scores,
    Separation,
    rejection_in,
    separate,
)
from tenfold.training.distance import fit_threshold, images_needed

RNG = np.random.default_rng(0)


def test_auroc_counts_pairs_and_ties_by_half() -> None:
    """By hand: of six pairs, (1, 2), (1, 5), (3, 5), (2, 5) are in order, (2, 2) is a tie, (3, 2) is not."""
    assert detection.auroc(np.array([1.0, 3, 2]), np.array([2.0, 5])) == pytest.approx(4.5 / 6)


def test_auroc_and_fpr_as_scikit_learn_has_them() -> None:
    from sklearn.metrics import roc_auc_score, roc_curve

    known, unknown = RNG.normal(size=400).round(1), RNG.normal(1, 1, 300).round(1)
    truth, scores = np.repeat([0, 1], (400, 300)), np.concatenate([known, unknown])
    assert detection.auroc(known, unknown) == pytest.approx(roc_auc_score(truth, scores))
    passing, known_kept, _ = roc_curve(1 - truth, -scores, drop_intermediate=False)
    assert detection.fpr_at_95(known, unknown) == pytest.approx(passing[known_kept >= 0.95][0])


def test_exact_interval_against_the_binomial_distribution() -> None:
    low, high = detection.exact_interval(3, 60)
    assert binom.sf(2, 60, low) == pytest.approx(0.025) and binom.cdf(3, 60, high) == pytest.approx(0.025)
    assert detection.exact_interval(0, 10) == (0.0, pytest.approx(1 - 0.025**0.1))
    assert detection.exact_interval(10, 10) == (pytest.approx(0.025**0.1), 1.0)
    assert detection.exact_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("count", "beyond"), [(59, 0), (92, 0), (93, 1), (1000, 38), (5000, 224)])
def test_a_threshold_leaves_as_many_validation_images_beyond_as_the_test_allows(count: int, beyond: int) -> None:
    """Tolerance limits of the 95 % quantile with 95 % confidence: 59 images for none beyond, 93 for one (Wilks)."""
    distances = RNG.permutation(count).astype(np.float32)
    threshold = fit_threshold(distances)
    assert threshold is not None and int((distances > threshold).sum()) == beyond
    assert binom.cdf(beyond, count, 0.05) <= 0.05 < binom.cdf(beyond + 1, count, 0.05)


def test_too_few_images_give_no_threshold() -> None:
    assert images_needed() == 59
    assert fit_threshold(np.arange(58.0)) is None and fit_threshold(np.empty(0)) is None
    assert fit_threshold(np.arange(59.0)) == 58


def test_the_threshold_keeps_its_promise() -> None:
    """Drawn again and again, it rejects more than 5 % of normal values in about 4 % of the draws, never in 8."""
    shares = [float((RNG.normal(size=4000) > fit_threshold(RNG.normal(size=300))).mean()) for _ in range(300)]
    assert np.mean(np.array(shares) > 0.055) < 0.08


def test_separation_by_distance_and_by_confidence() -> None:
    """By hand: distances part the two perfectly, confidences not at all."""
    same = np.array([0.5, 0.9])
    known, unknown = Scores(np.array([1.0, 2]), same), Scores(np.array([3.0, 9]), same)
    found = separate(known, unknown, threshold=5.0)
    assert found == Separation(2, auroc=1.0, fpr95=0.0, confidence_auroc=0.5, confidence_fpr95=1.0, rejected=0.5)


def test_what_is_written_is_read_and_damage_is_said() -> None:
    found = Rejection(
        1.5, 0.05, 0.95, 60, 0, (0.0, 0.06), 100, 3, (0.01, 0.09), {"noise": Separation(2, 1, 0, 1, 0, 1)}
    )
    assert rejection_in({"rejection": found.to_dict()}) == found and rejection_in({}) is None
    with pytest.raises(ModelError, match="rejection is damaged"):
        rejection_in({"rejection": found.to_dict() | {"unknown": 3}})
