"""Out-of-distribution rejection: the distance beyond which an image is taken for unknown, and how well that works.

The distance is that of `training.distance`. Its threshold is fitted on validation images, so that few known images are
rejected; no unknown image is needed. Legend: N images; distances float N, the larger, the less known.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple, Self

import numpy as np

from tenfold.errors import ModelError
from tenfold.evaluation.detection import auroc, exact_interval, fpr_at_95
from tenfold.training.distance import CONFIDENCE, MOST_REJECTED, fit_threshold, images_needed


class Scores(NamedTuple):
    """Of N images: their distances, and the probabilities of the predicted classes; float N each."""

    distances: np.ndarray
    confidences: np.ndarray


@dataclass(frozen=True)
class Separation:
    """How well unknown images of a kind are separated from known ones, by the distance and by the confidence alone.

    images: of that kind. auroc: the probability that an unknown image scores higher than a known one. fpr95: the share
    of unknown images that pass where 95 % of the known ones do. rejected: the share beyond the distance threshold, None
    without one.
    """

    images: int
    auroc: float
    fpr95: float
    confidence_auroc: float
    confidence_fpr95: float
    rejected: float | None


@dataclass(frozen=True)
class Rejection:
    """The distance threshold, what it was fitted on, and what it does.

    threshold: images with a larger distance are rejected; None where too few validation images were held out. At most
    `most_rejected` of the known images are then rejected, which holds with probability `confidence` over the draw of
    the `images` validation images; `rejected` of these are, and `interval` is the exact 95 % interval of that share.
    test_rejected and test_interval: the same of `test_images` test images. unknown: by kind of image made by code.
    """

    threshold: float | None
    most_rejected: float
    confidence: float
    images: int
    rejected: int | None
    interval: tuple[float, float] | None
    test_images: int
    test_rejected: int | None
    test_interval: tuple[float, float] | None
    unknown: dict[str, Separation]

    @property
    def images_needed(self) -> int:
        """The fewest validation images for a threshold."""
        return images_needed(self.most_rejected)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Self:
        """Read what `to_dict` wrote. Raises `ModelError`."""
        try:
            known = {field.name: value[field.name] for field in fields(cls)}
            unknown = {kind: Separation(**found) for kind, found in known["unknown"].items()}
            pairs = {name: known[name] and tuple(known[name]) for name in ("interval", "test_interval")}
            return cls(**known | pairs | {"unknown": unknown})
        except (KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"results.json: rejection is damaged ({error})") from error

    def to_dict(self) -> dict[str, Any]:
        """All of it by name, ready for JSON, as results.json has it."""
        return asdict(self) | {"images_needed": self.images_needed}


def rejection_in(results: dict[str, Any]) -> Rejection | None:
    """What the content of results.json says of the distance; None where none was fitted. Raises `ModelError`."""
    found = results.get("rejection")
    return Rejection.from_dict(found) if found else None


def measure_rejection(val_distances: np.ndarray, test: Scores, unknown: dict[str, Scores]) -> Rejection:
    """Fit the threshold on validation images, and see what it does to test images and to unknown ones, by kind."""
    threshold = fit_threshold(val_distances)
    rejected, interval = count_beyond(val_distances, threshold)
    test_rejected, test_interval = count_beyond(test.distances, threshold)
    return Rejection(
        threshold=threshold,
        most_rejected=MOST_REJECTED,
        confidence=CONFIDENCE,
        images=len(val_distances),
        rejected=rejected,
        interval=interval,
        test_images=len(test.distances),
        test_rejected=test_rejected,
        test_interval=test_interval,
        unknown={kind: separate(test, scores, threshold) for kind, scores in unknown.items()},
    )


def count_beyond(distances: np.ndarray, threshold: float | None) -> tuple[int, tuple[float, float]] | tuple[None, None]:
    """How many images a threshold rejects, and the exact 95 % interval of their share; None without a threshold."""
    if threshold is None:
        return None, None
    beyond = int((distances > threshold).sum())
    return beyond, exact_interval(beyond, len(distances))


def separate(known: Scores, unknown: Scores, threshold: float | None) -> Separation:
    """Compare the scores of known and of unknown images."""
    return Separation(
        images=len(unknown.distances),
        auroc=auroc(known.distances, unknown.distances),
        fpr95=fpr_at_95(known.distances, unknown.distances),
        confidence_auroc=auroc(-known.confidences, -unknown.confidences),
        confidence_fpr95=fpr_at_95(-known.confidences, -unknown.confidences),
        rejected=None if threshold is None else float((unknown.distances > threshold).mean()),
    )


def format_rejection(found: Rejection | None) -> list[str]:
    """What was fitted, in sentences; none where there is no distance."""
    if found is None:
        return []
    if found.threshold is None:
        return [f"distance: {distance_message(found)}"]
    low, high = found.interval or (0.0, 1.0)
    return [
        f"distance threshold {found.threshold:.4g}: {found.rejected:,} of {found.images:,} validation images are "
        f"beyond it (95 % interval {low:.1%} to {high:.1%})"
    ]


def distance_message(found: Rejection) -> str:
    """Why there is no distance threshold, and what helps."""
    return (
        f"no threshold, since at least {found.images_needed} validation images are needed and there are "
        f"{found.images:,}: use --val-size"
    )
