"""Calibration: a temperature for the logits, and a confidence threshold below which predictions are rejected.

Both are fitted on validation images and belong to the exported model, which has no TTA: they apply to logits of a
single view. Legend: N images, K classes, `logits` float N×K, `labels` N integers in [0, K).
"""

import math
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, Self

import numpy as np

from tenfold.console import plural
from tenfold.errors import ModelError
from tenfold.evaluation import metrics
from tenfold.training.aliases import target_error_in
from tenfold.training.target_error import TARGET_ERROR, check_target_error

CONFIDENCE = 0.95
_COVERAGES = np.arange(1, 21) / 20
_LEVEL = (1 - CONFIDENCE) / len(_COVERAGES)  # of the test of each coverage, so that all hold together
_LARGEST = 100.0  # temperatures are sought from a hundredth to a hundred
_AT_BOUND = 1e-3  # a logarithm of a temperature as near to that of a bound lies at it
_ROUND_ERRORS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
"""Target errors that are tried where a smaller one cannot be met."""
_FEW = 10  # wrong answers below which a fitted temperature says little


@dataclass(frozen=True, repr=False)
class Calibration:
    """What was fitted on `images` validation images, and what it changes on the test images.

    temperature: what logits are divided by. threshold: the smallest top probability, after that division, that is
    not rejected; None where no threshold can be shown to meet the target error. target_error: an upper bound on the
    error of the predictions that are kept; it holds with probability `confidence` over the draw of validation images.
    wrong: how many of these are misclassified. fitted: whether a temperature was found; else it is 1.
    reachable_error: where there is no threshold, the smallest round target error for which there is one.

    On the test images, without TTA: the expected calibration error (`ece`, in [0, 1]) and the cross-entropy (in nats)
    before and after the division; with a threshold, how many images are `answered`, their share (`coverage`), the share
    of wrong ones among them (`error`) and its 95 % interval. None before `measure`, and where an earlier version did
    not write it.
    """

    temperature: float
    threshold: float | None
    target_error: float
    confidence: float
    images: int
    wrong: int | None = None
    fitted: bool = True
    reachable_error: float | None = None
    ece_before: float | None = None
    ece_after: float | None = None
    cross_entropy_before: float | None = None
    cross_entropy_after: float | None = None
    answered: int | None = None
    coverage: float | None = None
    error: float | None = None
    error_interval: tuple[float, float] | None = None

    def __repr__(self) -> str:
        threshold = None if self.threshold is None else round(self.threshold, 4)
        found = f"temperature={self.temperature:.4g}, threshold={threshold}, target_error={self.target_error:g}"
        return f"Calibration({found}, images={self.images})"

    @property
    def images_needed(self) -> int:
        """The fewest validation images on which a threshold can meet the target error."""
        return images_needed(self.target_error)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Self:
        """Read what `to_dict` wrote, with the names of earlier versions too. Raises `ModelError`."""
        if "promised_error" in value:
            value = value | {"target_error": target_error_in(value)}
        known = {field.name: value[field.name] for field in fields(cls) if field.name in value}
        missing = [field.name for field in fields(cls) if field.default is MISSING and field.name not in known]
        if missing:
            raise ModelError(f"results.json: calibration has no {missing[0]!r}")
        interval = known.get("error_interval")
        return cls(**known | {"error_interval": tuple(interval) if interval else None})

    def to_dict(self) -> dict[str, Any]:
        """All of it by name, ready for JSON, as results.json has it."""
        interval = list(self.error_interval) if self.error_interval else None
        return asdict(self) | {"images_needed": self.images_needed, "error_interval": interval}

    def measure(self, logits: np.ndarray, labels: np.ndarray) -> Self:
        """The same calibration with its metrics on labelled test images: `logits` of a single view."""
        scaled = logits / self.temperature
        return replace(
            self,
            ece_before=metrics.expected_calibration_error(logits, labels),
            ece_after=metrics.expected_calibration_error(scaled, labels),
            cross_entropy_before=metrics.cross_entropy(logits, labels),
            cross_entropy_after=metrics.cross_entropy(scaled, labels),
            **self._measure_answered(logits, labels),
        )

    def _measure_answered(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        if self.threshold is None:
            return {"answered": None, "coverage": None, "error": None, "error_interval": None}
        confidence, correct = _predictions(logits, labels, self.temperature)
        answered = confidence >= self.threshold
        count, wrong = int(answered.sum()), int((answered & ~correct).sum())
        return {
            "answered": count,
            "coverage": count / len(labels),
            "error": wrong / count if count else 0.0,
            "error_interval": metrics.wilson_interval(wrong, count),
        }


def calibration_in(results: dict[str, Any]) -> Calibration | None:
    """The calibration in the content of results.json; None where nothing was fitted. Raises `ModelError`."""
    found = results.get("calibration")
    return Calibration.from_dict(found) if found else None


def calibrate(logits: np.ndarray, labels: np.ndarray, target_error: float = TARGET_ERROR) -> Calibration:
    """Choose temperature and threshold on validation images. Raises `UsageError` as `check_target_error`."""
    check_target_error(target_error)
    found = fit_temperature(logits, labels)
    temperature = 1.0 if found is None else found
    confidence, correct = _predictions(logits, labels, temperature)
    threshold, wrong = find_threshold(confidence, correct, target_error), int((~correct).sum())
    more = None if threshold is not None else find_reachable_error(confidence, correct, target_error)
    return Calibration(temperature, threshold, target_error, CONFIDENCE, len(labels), wrong, found is not None, more)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float | None:
    """The temperature in (0.01, 100) with the smallest cross-entropy (Guo et al., 2017); None where there is none.

    Where all predictions are correct, the cross-entropy falls with the temperature without end, towards confidence 1.
    Where they are no better than chance, it falls as the temperature rises: the minimum lies at a bound.
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
    """The fewest validation images on which a threshold can be found, if none of them is misclassified.

    Of n predictions, none is wrong with probability (1 − target_error)ⁿ or less if more than `target_error` of all are.
    """
    return math.ceil(math.log(_LEVEL) / math.log1p(-target_error))


def find_threshold(confidence: np.ndarray, correct: np.ndarray, target_error: float) -> float | None:
    """The threshold with the largest coverage that meets the target error; None where none can be shown to.

    `confidence` float N top probabilities, `correct` bool N. Twenty coverages are tried, 5 % to 100 %. For each,
    an exact binomial test at level (1 − CONFIDENCE) / 20 must reject that more than `target_error` of those kept are
    wrong, so that by Bonferroni all that pass hold together (after Geifman and El-Yaniv, 2017). Each test takes the
    images with a confidence strictly above an order statistic: given it, they are a plain sample of such images.
    """
    from scipy.special import bdtr

    order = np.argsort(-confidence, kind="stable")
    ranked, wrong = confidence[order], np.cumsum(~correct[order])
    chosen = None
    for coverage in _COVERAGES:
        asked = round(coverage * len(confidence))
        limit = float(ranked[asked]) if asked < len(confidence) else 0.0
        answered = int((confidence > limit).sum())
        if answered and bdtr(int(wrong[answered - 1]), answered, target_error) <= _LEVEL:
            chosen = float(np.nextafter(limit, 1)) if limit else 0.0
    return chosen


def find_reachable_error(confidence: np.ndarray, correct: np.ndarray, target_error: float) -> float | None:
    """The smallest round target error above this one that a threshold meets, see `find_threshold`; None for none."""
    larger = (error for error in _ROUND_ERRORS if error > target_error)
    return next((error for error in larger if find_threshold(confidence, correct, error) is not None), None)


def format_calibration(found: Calibration | None) -> list[str]:
    """A measured calibration in sentences; none where there is no calibration."""
    if found is None:
        return []
    change = f"calibration error without TTA {_percent(found.ece_before, 2)} → {_percent(found.ece_after, 2)}"
    temperature = temperature_message(found) + (f": {change}" if found.fitted else "")
    bound = f"error bound {100 * found.target_error:.3g} %"
    if found.threshold is None:
        return [temperature, f"{bound}: {threshold_message(found)}"]
    kept = f"coverage {_percent(found.coverage, 1)} of the test images, error {_percent(found.error, 2)}"
    return [temperature, f"{bound}: threshold {found.threshold:.4f}, {kept}"]


def _percent(share: float | None, digits: int) -> str:
    return "–" if share is None else f"{share:.{digits}%}"


def temperature_message(found: Calibration) -> str:
    """How the temperature was fitted, or why it was not."""
    temperature, images, wrong = found.temperature, found.images, found.wrong
    if found.fitted:
        few = f", only {wrong} of them misclassified, so it is uncertain" if wrong is not None and wrong < _FEW else ""
        return f"temperature {temperature:.3f}, fitted on {plural(images, 'validation image')}{few}"
    why = f"all {images:,} validation images are classified correctly without TTA"
    if wrong:
        misclassified = f"{wrong:,} of {images:,} validation images are misclassified without TTA"
        why = f"{misclassified}, and no temperature lowers the cross-entropy"
    return f"temperature not fitted: {why}; 1 is used, which does not change the probabilities"


def threshold_message(found: Calibration) -> str:
    """Why there is no threshold, and what helps."""
    images, needed = found.images, found.images_needed
    larger = "a larger --target-error"
    if found.reachable_error is not None:
        larger = f"--target-error {found.reachable_error:g}, which can be met"
    if images >= needed:
        return f"no threshold can be shown to meet it on {images:,} images; use {larger}"
    return (
        f"no threshold can be shown to meet it on {images:,} validation images: at least {needed:,} are needed, none "
        f"of them misclassified; use a larger --val-size or {larger.removeprefix('a larger ')}"
    )


def _predictions(logits: np.ndarray, labels: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Top probabilities float64 N, and whether they are the true class's."""
    return metrics.probabilities(logits, temperature).max(axis=1), logits.argmax(axis=1) == labels
