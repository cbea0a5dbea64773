"""Images of any kind → their explanations, one by one: what `Run.explain` and `tenfold explain` go through."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from tenfold import notebook
from tenfold.data.image import decode
from tenfold.errors import DataError, ImageError, UsageError
from tenfold.evaluation.calibration import calibration_in
from tenfold.evaluation.explain import Explanation, explain
from tenfold.serving.inputs import find
from tenfold.training.device import select_device

if TYPE_CHECKING:
    from tenfold.api.predictor import Images
    from tenfold.training.run import Run
    from tenfold.training.weights import Model


class Explanations(list[Explanation]):
    """A list that shows its plots in a notebook."""

    def _repr_html_(self) -> str:
        return notebook.images_html((item.path, item._repr_png_()) for item in self)


def explain_each(
    run: "Run", images: "Images", labels: Sequence[int] | None = None, stdin: BinaryIO | None = None
) -> Iterator[tuple[str, Explanation | ImageError]]:
    """The name of each image, and its explanation or why it cannot be read.

    stdin: where the image called `-` comes from. Raises `UsageError` for labels that do not fit, `DataError` for an
    array of another kind, `ModelError`.
    """
    model = run.load_model(select_device("cpu"))
    calibration = calibration_in(run.require_scores()) if run.scored else None
    temperature = calibration.temperature if calibration else 1.0
    for number, (name, pixels) in enumerate(_decode_each(run, model, images, stdin)):
        if isinstance(pixels, ImageError):
            yield name, pixels
            continue
        (explained,) = explain(model, pixels[None], temperature, _label(labels, number, model))
        yield name, replace(explained, path=name)


def _label(labels: Sequence[int] | None, number: int, model: "Model") -> list[int] | None:
    if labels is None:
        return None
    if number >= len(labels):
        raise UsageError(f"there are {len(labels)} labels and more images: give one label an image")
    if not 0 <= labels[number] < len(model.classes):
        raise UsageError(f"label {labels[number]} is no number of one of the {len(model.classes)} classes")
    return [int(labels[number])]


def _decode_each(
    run: "Run", model: "Model", images: "Images", stdin: BinaryIO | None
) -> Iterator[tuple[str, np.ndarray | ImageError]]:
    if isinstance(images, np.ndarray):
        yield from _rows(images, model.size)
        return
    description = run.description
    names: Iterable[str] = (
        [str(images)] if not isinstance(images, Sequence) or isinstance(images, str) else map(str, images)
    )
    for item in find(names, stdin):
        try:
            yield item.name, decode(item.read(), model.size, description.resize, bit_depth=description.bit_depth)
        except ImageError as error:
            yield item.name, error


def _rows(images: np.ndarray, size: int) -> Iterator[tuple[str, np.ndarray]]:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, 3):
        shape = "×".join(map(str, images.shape))
        raise DataError(f"images must be uint8 N×{size}×{size}×3, not {images.dtype} {shape}")
    for number, pixels in enumerate(images):
        yield f"image {number}", pixels
