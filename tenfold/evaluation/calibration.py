"""How far a model's certainty can be trusted: a temperature, and a threshold below which it had better not answer.

Both are chosen on validation images and belong to the model as it is shipped, which sees an image once: they apply to
single-view logits. Legend: N images, K classes, `logits` float N×K, `labels` N integers in [0, K).
"""

import math
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

import numpy as np

from tenfold.errors import ModelError
from tenfold.evaluation import metrics
from tenfold.training.run import TARGET_ERROR, check_target_error

CONFIDENCE = 0.95
_COVERAGES = np.arange(1, 21) / 20
_LEVEL = (1 - CONFIDENCE) / len(_COVERAGES)  # of the test of each coverage, so that all hold together
_LARGEST = 100.0  # temperatures are sought from a hundredth to a hundred
_AT_BOUND = 1e-3  # a logarithm of a temperature as near to that of a bound lies at it
_FEW = 10  # wrong answers below which a fitted temperature says little


@dataclass(frozen=True)
class Calibration:
    """What was chosen on `images` validation images.

    temperature: what logits are divided by. threshold: the smallest top probability, after that division, at which the
    model answers; None where no threshold can be shown to keep the promise. promised_error: the share of wrong answers
    among those given, kept with probability `confidence` over the draw of the validation images. wrong: how many of
    these are misclassified, None in runs of earlier versions. fitted: whether a temperature was found; else it is 1.
    """

    temperature: float
    threshold: float | None
    promised_error: float
    confidence: float
    images: int
    wrong: int | None = None
    fitted: bool = True

    @staticmethod
    def from_json(value: dict[str, Any]) -> "Calibration":
        """Read what `describe` wrote. Raises `ModelError`."""
        known = {field.name: value[field.name] for field in fields(Calibration) if field.name in value}
        missing = [field.name for field in fields(Calibration) if field.default is MISSING and field.name not in known]
        if missing:
            raise ModelError(f"results.json: calibration has no {missing[0]!r}")
        return Calibration(**known)


def calibrate(logits: np.ndarray, labels: np.ndarray, promised_error: float = TARGET_ERROR) -> Calibration:
    """Choose temperature and threshold on validation images. Raises `UsageError` as `check_target_error`."""
    check_target_error(promised_error)
    found = fit_temperature(logits, labels)
    temperature = 1.0 if found is None else found
    sure, correct = _answers(logits, labels, temperature)
    threshold, wrong = find_threshold(sure, correct, promised_error), int((~correct).sum())
    return Calibration(temperature, threshold, promised_error, CONFIDENCE, len(labels), wrong, found is not None)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float | None:
    """The temperature in (0.01, 100) with the smallest cross-entropy (Guo et al., 2017); None where there is none.

    Where all answers are right, the cross-entropy falls with the temperature for ever: every answer would be given with
    certainty. Where they are no better than chance, it falls with certainty: the minimum lies at a bound.
    """
    if (logits.argmax(axis=1) == labels).all():
        return None
    from scipy.optimize import minimize_scalar

    bounds = (-math.log(_LARGEST), math.log(_LARGEST))
    found = minimize_scalar(
        lambda log_t: metrics.cross_entropy(logits / math.exp(log_t), labels), bounds=bounds, options={"xatol": 1e-6}
    )
    return math.exp(float(found.x)) if abs(found.x) < bounds[1] - _AT_BOUND else None


def images_needed(target_error: float) -> int:
    """The fewest validation images on which a threshold can be found: so many answers, and none of them wrong.

    Of n answers, none is wrong with probability (1 − target_error)ⁿ or less if more than `target_error` of all are.
    """
    return math.ceil(math.log(_LEVEL) / math.log1p(-target_error))


def find_threshold(sure: np.ndarray, correct: np.ndarray, promised_error: float) -> float | None:
    """The threshold that answers most images and keeps the promise; None where none can be shown to.

    `sure` float N top probabilities, `correct` bool N. Twenty coverages are tried, 5 % to 100 %. For each, an exact
    binomial test at level (1 − CONFIDENCE) / 20 must refuse that more than `promised_error` of the answers are wrong,
    so that by Bonferroni all that pass hold together (after Geifman and El-Yaniv, 2017). Each test takes the images
    strictly surer than an order statistic: given it, they are a plain sample of such images.
    """
    from scipy.special import bdtr

    order = np.argsort(-sure, kind="stable")
    ranked, wrong = sure[order], np.cumsum(~correct[order])
    chosen = None
    for coverage in _COVERAGES:
        asked = round(coverage * len(sure))
        limit = float(ranked[asked]) if asked < len(sure) else 0.0
        answered = int((sure > limit).sum())
        if answered and bdtr(int(wrong[answered - 1]), answered, promised_error) <= _LEVEL:
            chosen = float(np.nextafter(limit, 1)) if limit else 0.0
    return chosen


def describe(calibration: Calibration, logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """The calibration as JSON, with what it does to other, labelled images: `logits` of a single view.

    Adds `images_needed` (see there), `ece_before`, `ece_after`, `cross_entropy_before`, `cross_entropy_after`, and,
    where there is a threshold, the share of images answered (`coverage`), the share of wrong ones among them (`error`,
    with its 95 % interval).
    """
    scaled = logits / calibration.temperature
    figures = {
        "ece_before": metrics.expected_calibration_error(logits, labels),
        "ece_after": metrics.expected_calibration_error(scaled, labels),
        "cross_entropy_before": metrics.cross_entropy(logits, labels),
        "cross_entropy_after": metrics.cross_entropy(scaled, labels),
    }
    needed = {"images_needed": images_needed(calibration.promised_error)}
    return asdict(calibration) | needed | figures | _answering(calibration, logits, labels)


def _answering(calibration: Calibration, logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    if calibration.threshold is None:
        return {"answered": None, "coverage": None, "error": None, "error_interval": None}
    sure, correct = _answers(logits, labels, calibration.temperature)
    answered = sure >= calibration.threshold
    count, wrong = int(answered.sum()), int((answered & ~correct).sum())
    return {
        "answered": count,
        "coverage": count / len(labels),
        "error": wrong / count if count else 0.0,
        "error_interval": list(metrics.wilson_interval(wrong, count)),
    }


def say(figures: dict[str, Any] | None) -> list[str]:
    """What `describe` found, in sentences; none where there is no calibration."""
    if figures is None:
        return []
    change = f"calibration error of a single view {figures['ece_before']:.2%} → {figures['ece_after']:.2%}"
    certainty = temperature_message(figures) + (f": {change}" if figures.get("fitted", True) else "")
    promise = f"at most {100 * figures['promised_error']:.3g} % wrong when it answers"
    if figures["threshold"] is None:
        return [certainty, f"{promise}: {threshold_message(figures)}"]
    answering = f"answers {figures['coverage']:.1%} of the test images, {figures['error']:.2%} of them wrong"
    return [certainty, f"{promise}: from probability {figures['threshold']:.4f} on, it {answering}"]


def temperature_message(figures: dict[str, Any]) -> str:
    """How the temperature was found, or why it could not be."""
    temperature, images, wrong = figures["temperature"], figures["images"], figures.get("wrong")
    if figures.get("fitted", True):
        few = f", only {wrong} of them misclassified, so it is uncertain" if wrong is not None and wrong < _FEW else ""
        return f"temperature {temperature:.3f}, fitted on {images:,} validation images{few}"
    why = f"all {images:,} validation images are classified correctly"
    if wrong:
        why = f"{wrong:,} of {images:,} validation images are misclassified, and no temperature makes that likelier"
    return f"temperature not fitted: {why}; 1 is used, which leaves the probabilities as they are"


def threshold_message(figures: dict[str, Any]) -> str:
    """Why there is no threshold, and what helps."""
    images, needed = figures["images"], images_needed(figures["promised_error"])
    if images >= needed:
        return (
            f"no threshold can be shown to keep that on {images:,} images; a larger --target-error allows more errors"
        )
    return (
        f"no threshold can be shown to keep that on {images:,} validation images: it takes at least {needed:,}, none "
        "of them wrong; --val-size holds out more, a larger --target-error allows more errors"
    )


def _answers(logits: np.ndarray, labels: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Top probabilities float64 N, and whether they are the true class's."""
    return metrics.probabilities(logits, temperature).max(axis=1), logits.argmax(axis=1) == labels
