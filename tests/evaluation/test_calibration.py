"""Temperature, threshold and coverage on synthetic logits whose true calibration is known."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binom

from tenfold.errors import ModelError
from tenfold.evaluation import metrics
from tenfold.evaluation.calibration import (
    Calibration,
    calibrate,
    find_threshold,
    fit_temperature,
    format_calibration,
    images_needed,
)


def draw_calibrated(n: int, k: int, seed: int, scale: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are the truth: each label is drawn from the softmax of its row."""
    rng = np.random.default_rng(seed)
    logits = scale * rng.standard_normal((n, k))
    labels = (logits + rng.gumbel(size=(n, k))).argmax(axis=1)  # Gumbel's trick
    return logits, labels


@pytest.mark.parametrize("distortion", [0.3, 1.0, 4.0])
def test_the_temperature_undoes_a_known_distortion(distortion: float) -> None:
    logits, labels = draw_calibrated(40_000, 10, seed=1)
    assert fit_temperature(logits * distortion, labels) == pytest.approx(distortion, rel=0.02)


def test_the_temperature_is_where_torch_finds_the_smallest_loss() -> None:
    logits, labels = draw_calibrated(500, 4, seed=2)
    found = fit_temperature(logits * 2.5, labels)
    assert found is not None
    log_t = torch.tensor(np.log(found), dtype=torch.float64, requires_grad=True)
    scaled = torch.from_numpy(logits * 2.5) / log_t.exp()
    torch.nn.functional.cross_entropy(scaled, torch.from_numpy(labels)).backward()
    assert log_t.grad is not None and abs(float(log_t.grad)) < 1e-5


def test_where_all_predictions_are_correct_no_temperature_is_fitted() -> None:
    """Five images, hardly told apart: their likelihood alone asks for a temperature near nought."""
    logits = np.diag(np.linspace(0.4, 2.2, 5))
    found = calibrate(logits, logits.argmax(axis=1))
    assert (found.temperature, found.threshold, found.wrong, found.fitted) == (1, None, 0, False)


def test_a_temperature_that_could_not_be_fitted_is_not_called_fitted() -> None:
    """With 24 images, all of them right, it said "temperature 1.000, fitted on 24 validation images"."""
    right = np.eye(3)[np.arange(24) % 3]
    temperature, bound = format_calibration(calibrate(right, right.argmax(axis=1)).measure(right, right.argmax(axis=1)))
    assert temperature == (
        "temperature not fitted: all 24 validation images are classified correctly without TTA; 1 is used, which does "
        "not change the probabilities"
    )
    assert bound == (
        "error bound 1 %: no threshold can be shown to meet it on 24 validation images: at least 597 are needed, none "
        "of them misclassified; use a larger --val-size or --target-error 0.25, which can be met"
    )


def test_a_temperature_at_the_bound_is_not_used() -> None:
    """Wrong with certainty, all of them: the flatter the better, up to the bound of 100."""
    logits = 5.0 * np.eye(4)
    found = calibrate(logits, np.array([1, 2, 3, 0])).measure(logits, np.arange(4))
    assert (found.temperature, found.fitted, found.wrong) == (1, False, 4)
    assert format_calibration(found)[0].startswith(
        "temperature not fitted: 4 of 4 validation images are misclassified without TTA, and no"
    )


def test_few_errors_are_said() -> None:
    logits, labels = np.repeat([[2.0, 0.0]], 100, axis=0), np.zeros(100, int)
    labels[:9] = 1
    found = calibrate(logits, labels).measure(logits, labels)
    assert found.temperature == pytest.approx(2 / np.log(91 / 9), rel=1e-4)  # 91 % sure, as they are right
    assert (
        "on 100 validation images, only 9 of them misclassified, so it is uncertain: calib"
        in format_calibration(found)[0]
    )
    labels[9] = 1
    assert (
        "fitted on 100 validation images: calibration error"
        in format_calibration(calibrate(logits, labels).measure(logits, labels))[0]
    )


@pytest.mark.parametrize(("target_error", "needed"), [(0.01, 597), (0.05, 117), (0.1, 57), (0.001, 5989)])
def test_the_number_of_images_that_a_threshold_takes(target_error: float, needed: int) -> None:
    """By scipy's binomial distribution, and by the code that finds the threshold."""
    assert images_needed(target_error) == needed
    assert binom.cdf(0, needed - 1, target_error) > 0.05 / 20 >= binom.cdf(0, needed, target_error)
    for images, found in ((needed - 1, None), (needed, 0)):
        assert find_threshold(np.linspace(0.5, 1, images), np.ones(images, bool), target_error) == found


def test_calibration_makes_the_error_vanish_and_the_loss_fall() -> None:
    val, test = draw_calibrated(20_000, 10, seed=3), draw_calibrated(20_000, 10, seed=4)
    found = calibrate(val[0] * 3, val[1]).measure(test[0] * 3, test[1])
    assert found.temperature == pytest.approx(3, rel=0.03) and found.images == 20_000
    assert found.ece_before and found.ece_before > 0.1 and found.ece_after and found.ece_after < 0.015
    assert found.ece_after == metrics.expected_calibration_error(test[0] * 3 / found.temperature, test[1])
    assert found.cross_entropy_after == pytest.approx(metrics.cross_entropy(*test), abs=1e-3)
    assert found.cross_entropy_before == pytest.approx(metrics.cross_entropy(test[0] * 3, test[1]))


def test_a_perfect_model_answers_always() -> None:
    sure = np.linspace(0.5, 1, 1000)
    assert find_threshold(sure, np.ones(1000, bool), 0.01) == 0


def test_the_threshold_lies_where_known_errors_begin() -> None:
    # The surest 3,000 of 5,000 are right; below that every other one is wrong.
    sure = np.linspace(1, 0.2, 5000)
    correct = np.ones(5000, bool)
    correct[3000::2] = False
    threshold = find_threshold(sure, correct, 0.01)
    assert threshold is not None
    assert (sure >= threshold).sum() == 3000  # 3,250 would hold 125 mistakes
    assert find_threshold(sure[::-1], correct[::-1], 0.01) == threshold


def test_a_bound_that_cannot_be_shown_gives_no_threshold() -> None:
    """With α = 1 % and level 0.05 / 20, even no mistake proves nothing on fewer than 597 images."""
    assert binom.cdf(0, 596, 0.01) > 0.05 / 20 >= binom.cdf(0, 597, 0.01)
    assert find_threshold(np.linspace(0.5, 1, 596), np.ones(596, bool), 0.01) is None
    assert find_threshold(np.linspace(0.5, 1, 597), np.ones(597, bool), 0.01) == 0
    assert find_threshold(np.linspace(0.5, 1, 5000), np.arange(5000) % 2 == 0, 0.01) is None


def test_images_as_sure_as_the_limit_are_left_out() -> None:
    sure = np.repeat([0.9, 0.6], [1000, 1000])
    threshold = find_threshold(sure, sure > 0.7, 0.01)
    assert threshold is not None and (sure >= threshold).sum() == 1000


def test_the_error_bound_holds_as_often_as_its_confidence_says() -> None:
    """Over 200 draws of 2,000 validation images the true error exceeds the bound of 5 % in at most 5 % of them.

    The truth is known: on a calibrated model the error of the answers is their mean doubt. Without the bound (the
    largest coverage whose observed error meets it) 108 of the 200 draws broke it.
    """
    logits, _ = draw_calibrated(100_000, 5, seed=0, scale=4.0)
    true_sure = np.sort(metrics.probabilities(logits).max(axis=1))
    broken, given = 0, 0
    for seed in range(1, 201):
        val_logits, labels = draw_calibrated(2000, 5, seed, scale=4.0)
        sure, correct = metrics.probabilities(val_logits).max(axis=1), val_logits.argmax(axis=1) == labels
        threshold = find_threshold(sure, correct, 0.05)
        if threshold is not None:
            given += 1
            broken += (1 - true_sure[np.searchsorted(true_sure, threshold) :]).mean() > 0.05
    assert given == 200 and broken <= 10


def test_the_smallest_round_target_error_that_can_be_met_is_noted() -> None:
    """24 images that are all right: (1 − 0.25)²⁴ = 0.0010 ≤ 0.05 / 20 < (1 − 0.2)²⁴ = 0.0047."""
    logits = np.stack([np.linspace(1, 9, 24), np.zeros(24)], axis=1)
    found = calibrate(logits, np.zeros(24, int))
    assert found.threshold is None and found.reachable_error == 0.25
    assert calibrate(logits, np.zeros(24, int), 0.25).threshold == 0
    measured = found.measure(logits, np.zeros(24, int))
    assert format_calibration(measured)[1].endswith("or --target-error 0.25, which can be met")
    assert calibrate(logits, np.zeros(24, int), 0.5).reachable_error is None  # it has a threshold
    assert calibrate(logits, np.ones(24, int)).reachable_error is None  # all are wrong


def test_coverage_and_error_by_hand() -> None:
    p = np.array([0.99, 0.98, 0.95, 0.6, 0.55])
    logits = np.stack([np.log(p), np.log(1 - p)], axis=1)
    labels = np.array([0, 0, 1, 0, 1])
    found = Calibration(1.0, 0.9, 0.01, 0.95, 100).measure(logits, labels)
    assert (found.answered, found.coverage) == (3, pytest.approx(0.6))
    assert found.error == pytest.approx(1 / 3)
    assert found.error_interval == pytest.approx(metrics.wilson_interval(1, 3))
    assert "threshold 0.9000, coverage 60.0% of the test images, error 33.33%" in format_calibration(found)[1]
    without = Calibration(1.0, None, 0.01, 0.95, 100).measure(logits, labels)
    assert without.coverage is without.error is without.threshold is None
    assert (
        "no threshold can be shown to meet it on 100 validation images: at least 597" in format_calibration(without)[1]
    )
    many = Calibration(1.0, None, 0.01, 0.95, 5000).measure(logits, labels)
    assert (
        "no threshold can be shown to meet it on 5,000 images; use a larger --target-error"
        in format_calibration(many)[1]
    )
    nothing = Calibration(1.0, 0.999, 0.01, 0.95, 100).measure(logits, labels)
    assert (nothing.answered, nothing.error) == (0, 0)


def test_a_calibration_reads_what_it_wrote() -> None:
    calibration = Calibration(1.3, None, 0.01, 0.95, 100)
    for found in (calibration, replace(calibration, threshold=0.5).measure(np.eye(3), np.arange(3))):
        assert Calibration.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    old = {"temperature": 1.3, "threshold": None, "promised_error": 0.01, "confidence": 0.95, "images": 100}
    assert Calibration.from_dict(old) == calibration
    assert repr(calibration) == "Calibration(temperature=1.3, threshold=None, target_error=0.01, images=100)"
    with pytest.raises(ModelError, match="calibration has no 'threshold'"):
        Calibration.from_dict({"temperature": 1.0})
