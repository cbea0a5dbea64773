"""A model file → probabilities: open a file that tenfold exported, and predict with it. Needs no torch and no onnx.

Shapes: N images of S×S pixels, K classes.
"""

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tenfold.data.image import decode
from tenfold.errors import DataError, ModelError, UsageError
from tenfold.serving.model_file import ModelMetadata, read_about, read_content, verify
from tenfold.serving.runtime import Run, check_runtime, choose_runtime, start

if TYPE_CHECKING:
    from tenfold.data.stored import Images

BUNDLED = Path(__file__).parent / "models" / "cifar10.onnx"
BATCH_SIZE = 256
LARGE_SIDE = 64
"""Pixels a side: of larger images fewer are taken at a time, for their memory."""


class Outputs(NamedTuple):
    """What a model says of N images.

    probabilities: float32 N×K. distance: float32 N, how unlike the training images each one is to the network: the
    larger, the less known (`training.distance`); None where the file does not compute it.
    """

    probabilities: np.ndarray
    distance: np.ndarray | None


class Predictor:
    """An opened model. Safe to use from many threads; made by `open_model`."""

    def __init__(self, about: ModelMetadata, digest: str, runtime: str, run: Run):
        self.about = about
        self.digest = digest
        """SHA-256 that the file carries: two models with the same one answer the same."""
        self.runtime = runtime
        """What runs it, and its version."""
        self._run = run

    @property
    def runtime_name(self) -> str:
        """One of `runtime.RUNTIMES`."""
        return self.runtime.partition(" ")[0]

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of what `infer` gives, as they are in the file."""
        return Outputs._fields if self.about.distance is not None else Outputs._fields[:1]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities."""
        return self.about.classes

    def decode(self, content: bytes) -> np.ndarray:
        """Bytes of an image file to the uint8 S×S×3 that this model was trained on. Raises `ImageError`."""
        return decode(content, self.about.size, self.about.resize, bit_depth=self.about.bit_depth)

    def predict(self, images: "Images") -> np.ndarray:
        """Probabilities float32 N×K of uint8 N×S×S×3. Raises `DataError` for pixels of another kind."""
        return self.infer(images).probabilities

    def infer(self, images: "Images") -> Outputs:
        """All outputs for uint8 N×S×S×3. Raises `DataError` for pixels of another kind."""
        size = self.about.size
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, 3):
            shape = "×".join(map(str, images.shape))
            raise DataError(f"images must be uint8 N×{size}×{size}×3, not {images.dtype} {shape}")
        has_distance = self.about.distance is not None
        if len(images) == 0:
            return Outputs(
                np.empty((0, len(self.classes)), np.float32), np.empty(0, np.float32) if has_distance else None
            )
        count = max(1, min(BATCH_SIZE, BATCH_SIZE * LARGE_SIDE**2 // size**2))
        starts = range(0, len(images), count)
        batches = [self._run(np.ascontiguousarray(images[i : i + count])) for i in starts]
        probabilities, *others = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        return Outputs(probabilities, others[0] if has_distance else None)


def open_model(path: Path | str = BUNDLED, runtime: str | None = None, spin: bool = True) -> Predictor:
    """Open a model that tenfold exported, by default the one that comes with tenfold.

    runtime: one of `runtime.RUNTIMES`; by default what `choose_runtime` says. spin: whether ONNX Runtime keeps the
    cores busy while it waits for work: faster by a twentieth where nobody else wants them. Raises `ModelError` for a
    file that is missing, damaged or of another kind, `UsageError` where the runtime is not installed or not for such
    files.
    """
    return open_bytes(read_content(Path(path)), str(path), runtime, spin)


def open_bytes(content: bytes, name: str, runtime: str | None = None, spin: bool = True) -> Predictor:
    """Open a model from its bytes; `name` stands for it in errors. As `open_model`."""
    digest = verify(content, name)
    about = read_about(content, name)
    chosen = check_runtime(runtime) if runtime else choose_runtime(about.quantized)[0]
    if chosen == "openvino" and not about.quantized:
        raise UsageError(f"{name}: openvino runs int8 files only: its predictions are wrong for older float32 files")
    try:
        classifier = Predictor(about, digest, f"{chosen} {version(chosen)}", start(chosen, content, spin))
        answer, distance = classifier.infer(np.zeros((1, about.size, about.size, 3), np.uint8))
    except Exception as error:  # the runtimes raise kinds of their own
        raise ModelError(f"{name}: {chosen} cannot run it ({_first_line(error)})") from error
    if answer.shape != (1, len(about.classes)) or answer.dtype != np.float32 or not np.isfinite(answer).all():
        raise ModelError(f"{name}: it does not give a probability for each of {len(about.classes)} classes")
    if distance is not None and (distance.shape != (1,) or distance.dtype != np.float32 or not np.isfinite(distance)):
        raise ModelError(f"{name}: it does not give a distance for each image, as it says")
    return classifier


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
