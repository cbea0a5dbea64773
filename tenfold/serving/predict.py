"""Images → predictions: decoded in threads, predicted in batches, streamed, so that neither is ever held whole."""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from tenfold.errors import ImageError, UsageError
from tenfold.machine import cores
from tenfold.serving.inputs import Input
from tenfold.serving.model_file import ModelMetadata
from tenfold.serving.predictor import Predictor

BATCH_SIZE = 128
_AHEAD = 4 * BATCH_SIZE
"""Images that may wait decoded for their turn."""
REJECTED = "none of these"
_LOOSER = (0.05, 0.1, 0.2, 0.5)
"""Target errors that are suggested where a smaller one cannot be met."""


@dataclass(frozen=True)
class PredictionResult:
    """The prediction for one image.

    predictions: class names with probabilities, the best first; none where there is an `error`. rejected: whether the
    best one is less probable than the model's threshold, where that was asked for.
    """

    path: str
    predictions: tuple[tuple[str, float], ...] = ()
    rejected: bool = False
    error: str | None = None

    @property
    def label(self) -> str | None:
        """The most probable class; None where there is an error."""
        return self.predictions[0][0] if self.predictions else None

    @property
    def probability(self) -> float | None:
        """The probability of `label`."""
        return self.predictions[0][1] if self.predictions else None

    def to_dict(self) -> dict[str, Any]:
        """What `tenfold predict --json` prints: path, and label, probability and top, or the error."""
        return {"path": self.path} | ({"error": self.error} if self.error is not None else describe(self))


def answer(
    classifier: Predictor, inputs: Iterable[Input], top: int = 1, reject: bool = False
) -> Iterator[list[PredictionResult]]:
    """Answer inputs batch by batch, in their order. Raises `UsageError` at once for `reject` without a threshold."""
    return _answer_batches(classifier, inputs, top, check_threshold(classifier, reject))


def check_threshold(classifier: Predictor, reject: bool) -> float | None:
    """The threshold to reject by, None for not to reject. Raises `UsageError` where the model has none."""
    threshold = classifier.about.threshold
    if reject and threshold is None:
        raise UsageError(f"this model has no threshold: {_why_no_threshold(classifier.about)}; or leave --reject out")
    return threshold if reject else None


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
    """Which larger target error those validation images can be enough for; nothing where there is none.

    The number needed is that of `evaluation.calibration.images_needed`, in proportion to 1 / log(1 - error).
    """
    wanted = found["target_error"]
    scaled = found["images_needed"] * math.log1p(-wanted)
    fitting = [error for error in _LOOSER if error > wanted and scaled / math.log1p(-error) <= found["images"]]
    return f": tenfold evaluate RUN --target-error {fitting[0]:g} allows more errors" if fitting else ""


def _answer_batches(
    classifier: Predictor, inputs: Iterable[Input], top: int, threshold: float | None
) -> Iterator[list[PredictionResult]]:
    decoded = _decode_ahead(classifier, inputs)
    while batch := list(islice(decoded, BATCH_SIZE)):
        images = [pixels for _, pixels in batch if not isinstance(pixels, ImageError)]
        rows = iter(classifier.predict(np.stack(images)) if images else ())
        yield [
            PredictionResult(name, error=str(pixels))
            if isinstance(pixels, ImageError)
            else to_answer(name, next(rows), classifier.classes, top, threshold)
            for name, pixels in batch
        ]


def to_answer(
    name: str, row: np.ndarray, classes: tuple[str, ...], top: int, threshold: float | None
) -> PredictionResult:
    """The `top` best predictions of a row of K probabilities; `threshold` says where they are rejected."""
    best = np.argsort(-row, kind="stable")[:top]
    predictions = tuple((classes[i], float(row[i])) for i in best)
    return PredictionResult(name, predictions, rejected=threshold is not None and predictions[0][1] < threshold)


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
    """The prediction for an image that could be read, as plain data."""
    label, probability = answer.predictions[0]
    top = [{"label": label, "probability": probability} for label, probability in answer.predictions]
    return {"label": None if answer.rejected else label, "probability": probability, "top": top}
