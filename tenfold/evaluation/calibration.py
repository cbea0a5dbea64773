"""How far a model's certainty can be trusted: a temperature, and a threshold below which it had better not answer.

Both are chosen on validation images and belong to the model as it is shipped, which sees an image once: they apply to
single-view logits. Legend: N images, K classes, `logits` float N×K, `labels` N integers in [0, K).
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tenfold.errors import ModelError
from tenfold.evaluation import metrics

PROMISED_ERROR = 0.01
CONFIDENCE = 0.95
_COVERAGES = np.arange(1, 21) / 20
_LARGEST = 100.0  # temperatures are sought from a hundredth to a hundred


@dataclass(frozen=True)
class Calibration:
    """What was chosen on `images` validation images.

    temperature: what logits are divided by. threshold: the smallest top probability, after that division, at which the
    model answers; None where no threshold can be shown to keep the promise. promised_error: the share of wrong answers
    among those given, kept with probability `confidence` over the draw of the validation images.
    """

    temperature: float
    threshold: float | None
    promised_error: float
    confidence: float
    images: int

    @staticmethod
    def from_json(value: dict[str, Any]) -> "Calibration":
        """Read what `describe` wrote. Raises `ModelError`."""
        try:
            return Calibration(**{name: value[name] for name in Calibration.__dataclass_fields__})
        except KeyError as error:
            raise ModelError(f"results.json: calibration has no {error}") from error


def calibrate(logits: np.ndarray, labels: np.ndarray, promised_error: float = PROMISED_ERROR) -> Calibration:
    """Choose temperature and threshold on validation images."""
    temperature = fit_temperature(logits, labels)
    sure, correct = _answers(logits, labels, temperature)
    threshold = find_threshold(sure, correct, promised_error)
    return Calibration(temperature, threshold, promised_error, CONFIDENCE, len(labels))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature in [0.01, 100] with the smallest cross-entropy (Guo et al., 2017); 1 where all answers are right.

    There, the cross-entropy falls with the temperature for ever: every answer would be given with certainty.
    """
    if (logits.argmax(axis=1) == labels).all():
        return 1.0
    from scipy.optimize import minimize_scalar

    bounds = (-math.log(_LARGEST), math.log(_LARGEST))
    found = minimize_scalar(
        lambda log_t: metrics.cross_entropy(logits / math.exp(log_t), labels), bounds=bounds, options={"xatol": 1e-6}
    )
    return math.exp(float(found.x))


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
    level, chosen = (1 - CONFIDENCE) / len(_COVERAGES), None
    for coverage in _COVERAGES:
        asked = round(coverage * len(sure))
        limit = float(ranked[asked]) if asked < len(sure) else 0.0
        answered = int((sure > limit).sum())
        if answered and bdtr(int(wrong[answered - 1]), answered, promised_error) <= level:
            chosen = float(np.nextafter(limit, 1)) if limit else 0.0
    return chosen


def describe(calibration: Calibration, logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """The calibration as JSON, with what it does to other, labelled images: `logits` of a single view.

    Adds `ece_before`, `ece_after`, `cross_entropy_before`, `cross_entropy_after`, and, where there is a threshold, the
    share of images answered (`coverage`), the share of wrong ones among them (`error`, with its 95 % interval).
    """
    scaled = logits / calibration.temperature
    figures = {
        "ece_before": metrics.expected_calibration_error(logits, labels),
        "ece_after": metrics.expected_calibration_error(scaled, labels),
        "cross_entropy_before": metrics.cross_entropy(logits, labels),
        "cross_entropy_after": metrics.cross_entropy(scaled, labels),
    }
    return asdict(calibration) | figures | _answering(calibration, logits, labels)


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
    certainty = (
        f"temperature {figures['temperature']:.3f}, fitted on {figures['images']:,} validation images: "
        f"calibration error of a single view {figures['ece_before']:.2%} → {figures['ece_after']:.2%}"
    )
    promise = f"at most {100 * figures['promised_error']:.3g} % wrong when it answers"
    if figures["threshold"] is None:
        return [certainty, f"{promise}: no threshold can be shown to keep that on {figures['images']:,} images"]
    answering = f"answers {figures['coverage']:.1%} of the test images, {figures['error']:.2%} of them wrong"
    return [certainty, f"{promise}: from probability {figures['threshold']:.4f} on, it {answering}"]


def _answers(logits: np.ndarray, labels: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Top probabilities float64 N, and whether they are the true class's."""
    return metrics.probabilities(logits, temperature).max(axis=1), logits.argmax(axis=1) == labels
