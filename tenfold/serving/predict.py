"""Images → predictions: decoded in threads, predicted in batches, streamed, so that neither is ever held whole."""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np

from tenfold.errors import ImageError, UsageError
from tenfold.machine import cores
from tenfold.serving.inputs import Input
from tenfold.serving.model_file import ModelMetadata
from tenfold.serving.predictor import Outputs, Predictor

BATCH_SIZE = 128
_AHEAD = 4 * BATCH_SIZE
"""Images that may wait decoded for their turn."""
REJECTED = "none of these"
_LOOSER = (0.05, 0.1, 0.2, 0.5)
"""Target errors that are suggested where a smaller one cannot be met, by files that do not say which one can."""


Reason = Literal["confidence", "distance"]
"""Why a prediction is rejected: its probability is too small, or the image is too unlike the training images."""


@dataclass(frozen=True)
class PredictionResult:
    """The prediction for one image.

    predictions: class names with probabilities, the best first; none where there is an `error`. distance: how unlike
    the training images it is to the network, the larger, the less known; None where the model does not say.
    rejected_by: why it is rejected, where that was asked for; empty where it is not.
    """

    path: str
    predictions: tuple[tuple[str, float], ...] = ()
    distance: float | None = None
    rejected_by: tuple[Reason, ...] = ()
    error: str | None = None

    @property
    def rejected(self) -> bool:
        """Whether the best prediction is not to be trusted: none of the classes is the answer."""
        return bool(self.rejected_by)

    @property
    def label(self) -> str | None:
        """The most probable class; None where there is an error."""
        return self.predictions[0][0] if self.predictions else None

    @property
    def probability(self) -> float | None:
        """The probability of `label`."""
        return self.predictions[0][1] if self.predictions else None

    def to_dict(self) -> dict[str, Any]:
        """What `tenfold predict --json` prints: path, and what `describe` says, or the error."""
        return {"path": self.path} | ({"error": self.error} if self.error is not None else describe(self))


@dataclass(frozen=True)
class Thresholds:
    """What predictions are rejected by: the smallest confidence and the largest distance that are kept, or None."""

    confidence: float | None = None
    distance: float | None = None

    def __bool__(self) -> bool:
        return self != Thresholds()

    def reasons(self, probability: float, distance: float | None) -> tuple[Reason, ...]:
        """Why a prediction is rejected; empty where it is not."""
        unsure = self.confidence is not None and probability < self.confidence
        unknown = self.distance is not None and distance is not None and distance > self.distance
        found: dict[Reason, bool] = {"confidence": unsure, "distance": unknown}
        return tuple(reason for reason, holds in found.items() if holds)


def answer(
    classifier: Predictor, inputs: Iterable[Input], top: int = 1, reject: bool = False
) -> Iterator[list[PredictionResult]]:
    """Answer inputs batch by batch, in their order. Raises `UsageError` at once for `reject` without a threshold."""
    return _answer_batches(classifier, inputs, top, find_thresholds(classifier.about, reject))


def find_thresholds(about: ModelMetadata, reject: bool) -> Thresholds:
    """What to reject by: what the model has, nothing without `reject`. Raises `UsageError` where it has neither."""
    found = Thresholds(about.threshold, about.distance_threshold) if reject else Thresholds()
    if reject and not found:
        raise UsageError(f"this model has no threshold: {_why_no_threshold(about)}; or leave --reject out")
    return found


def missing_threshold(about: ModelMetadata) -> str | None:
    """Which of the two thresholds the model lacks, why, and how to get it, in a line; None where it has both.

    A file without a distance is an older one, which has one threshold only.
    """
    if about.threshold is None:
        return f"rejected by distance only, not by confidence: {_why_no_threshold(about)}"
    if about.distance and about.distance["threshold"] is None:
        return f"rejected by confidence only, not by distance: {_why_no_distance(about.distance)}"
    return None


def _why_no_distance(found: Mapping[str, Any]) -> str:
    needed, had = f"{found['images_needed']:,}", f"{found['images']:,}"
    return f"that needs at least {needed} validation images (tenfold train --val-size N), and it had {had}"


def _why_no_threshold(about: ModelMetadata) -> str:
    """What is missing, and how to get it."""
    found = about.calibration
    if found is None:
        return "it was trained without validation images (tenfold train --val-size N)"
    error, had = f"{100 * found['target_error']:.3g} %", f"{found['images']:,}"
    if found["images"] >= found["images_needed"]:
        why = f"too many predictions on {had} validation images are wrong for an error of at most {error}"
        return f"{why}{_looser(found)}"
    return (
        f"an error of at most {error} needs at least {found['images_needed']:,} validation images (tenfold train "
        f"--val-size N), and it had {had}{_looser(found)}"
    )


def _looser(found: Mapping[str, Any]) -> str:
    """The smallest target error that can be met; nothing where there is none."""
    error = found["reachable_error"] if "reachable_error" in found else _possible_error(found)
    return f": tenfold evaluate RUN --target-error {error:g} allows more errors" if error is not None else ""


def _possible_error(found: Mapping[str, Any]) -> float | None:
    """Which larger target error those validation images can be enough for; None where there is none.

    The number needed is that of `evaluation.calibration.images_needed`, in proportion to 1 / log(1 - error).
    """
    wanted = found["target_error"]
    scaled = found["images_needed"] * math.log1p(-wanted)
    return next((e for e in _LOOSER if e > wanted and scaled / math.log1p(-e) <= found["images"]), None)


def _answer_batches(
    classifier: Predictor, inputs: Iterable[Input], top: int, thresholds: Thresholds
) -> Iterator[list[PredictionResult]]:
    decoded = _decode_ahead(classifier, inputs)
    while batch := list(islice(decoded, BATCH_SIZE)):
        images = [pixels for _, pixels in batch if not isinstance(pixels, ImageError)]
        names = [name for name, pixels in batch if not isinstance(pixels, ImageError)]
        outputs = classifier.infer(np.stack(images)) if images else None
        answers = iter(to_answers(names, outputs, classifier.classes, top, thresholds) if outputs else ())
        yield [
            PredictionResult(name, error=str(pixels)) if isinstance(pixels, ImageError) else next(answers)
            for name, pixels in batch
        ]


def to_answers(
    names: Sequence[str], outputs: Outputs, classes: tuple[str, ...], top: int, thresholds: Thresholds
) -> Iterator[PredictionResult]:
    """The `top` best predictions of each of N images; `thresholds` say which are rejected."""
    distances = [None] * len(names) if outputs.distance is None else outputs.distance.tolist()
    for name, row, distance in zip(names, outputs.probabilities, distances, strict=True):
        best = np.argsort(-row, kind="stable")[:top]
        predictions = tuple((classes[i], float(row[i])) for i in best)
        yield PredictionResult(name, predictions, distance, thresholds.reasons(predictions[0][1], distance))


def _decode_ahead(classifier: Predictor, inputs: Iterable[Input]) -> Iterator[tuple[str, np.ndarray | ImageError]]:
    """Names and pixels, or what is wrong with them, in order; threads work ahead of the one who asks."""

    def work(item: Input) -> np.ndarray | ImageError:
        try:
            return classifier.decode(item.read())
        except ImageError as error:
            return error

    pool = ThreadPoolExecutor(cores())
    waiting: deque[tuple[str, Future[np.ndarray | ImageError]]] = deque()
    try:
        for item in inputs:
            waiting.append((item.name, pool.submit(work, item)))
            if len(waiting) == _AHEAD:
                name, future = waiting.popleft()
                yield name, future.result()
        while waiting:
            name, future = waiting.popleft()
            yield name, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def describe(answer: PredictionResult) -> dict[str, Any]:
    """The prediction for an image that could be read, as plain data: label (None where it is rejected), probability,
    top, and of a model that has a distance, that and why the image is rejected, if it is.
    """
    label, probability = answer.predictions[0]
    top = [{"label": label, "probability": probability} for label, probability in answer.predictions]
    described: dict[str, Any] = {"label": None if answer.rejected else label, "probability": probability, "top": top}
    if answer.distance is not None:
        described |= {"distance": answer.distance, "rejected_by": list(answer.rejected_by)}
    return described
