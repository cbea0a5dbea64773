"""`tenfold.Predictor`: a model file with images in and class names out. Needs no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from tenfold.api.model_file import ensure_model_file
from tenfold.serving import predictor
from tenfold.serving.inputs import find
from tenfold.serving.predict import PredictionResult, answer, find_thresholds, to_answers

Images = str | Path | np.ndarray | Sequence[str | Path]
"""Paths of files and folders, or uint8 N×S×S×3 pixels of the model's size."""


class Predictor:
    """An opened model: `Predictor.load(path).predict(images)`. Safe to use from many threads."""

    def __init__(self, model: predictor.Predictor):
        self.model = model

    @classmethod
    def load(cls, path: Path | str | None = None) -> Self:
        """Open a run directory or an exported file, by default the bundled CIFAR-10 model.

        The model file of a run is written first where it is missing or out of date; that needs torch. Raises
        `ModelError` for a file that is missing, damaged or of another kind.
        """
        return cls(predictor.open_model(ensure_model_file(Path(path) if path is not None else None)))

    def __repr__(self) -> str:
        return f"Predictor({len(self.classes)} classes, {self.size} × {self.size} pixels, {self.model.runtime})"

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities."""
        return self.model.classes

    @property
    def size(self) -> int:
        """Side of the images that the model takes, in pixels."""
        return self.model.about.size

    def predict(self, images: Images, top: int = 1, reject: bool = False) -> list[PredictionResult]:
        """Classify images, in their order: the `top` classes of each with their probabilities.

        reject: mark images whose best class is less probable than the model's threshold, and those that are too unlike
        its training images (`PredictionResult.rejected_by`). Files that cannot be read get
        an `error`. Raises `DataError` for arrays of another shape, `UsageError` for `reject` without a threshold.
        """
        if isinstance(images, np.ndarray):
            thresholds, outputs = find_thresholds(self.model.about, reject), self.model.infer(images)
            names = [f"image {i}" for i in range(len(images))]
            return list(to_answers(names, outputs, self.classes, top, thresholds))
        names = [str(images)] if isinstance(images, str | Path) else list(map(str, images))
        return [result for batch in answer(self.model, find(names), top, reject) for result in batch]

    def predict_proba(self, images: np.ndarray) -> np.ndarray:
        """Probabilities float32 N×K of uint8 N×S×S×3. Raises `DataError` for pixels of another kind."""
        return self.model.predict(images)

    def distance(self, images: np.ndarray) -> np.ndarray | None:
        """How unlike the training images each of uint8 N×S×S×3 is: float32 N, the larger, the less known.

        None where the model file does not say. Raises `DataError` for pixels of another kind.
        """
        return self.model.infer(images).distance
