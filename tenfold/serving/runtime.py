"""A model file → probabilities: the one place that knows what runs it, ONNX Runtime or OpenVINO.

Needs no torch and no onnx.

Shapes: N images of S×S pixels, K classes.
"""

import importlib.util
import os
import sys
import threading
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from tenfold.data.image import decode
from tenfold.errors import DataError, ModelError, UsageError, did_you_mean
from tenfold.machine import cores
from tenfold.serving.model_file import ModelMetadata, read_about, read_content, verify

BUNDLED = Path(__file__).parent / "models" / "cifar10.onnx"
BATCH_SIZE = 256
RUNTIMES = ("onnxruntime", "openvino")
VARIABLE = "TENFOLD_RUNTIME"


class Predictor:
    """An opened model. Safe to use from many threads; made by `open_model`."""

    def __init__(self, about: ModelMetadata, digest: str, runtime: str, run: Callable[[np.ndarray], np.ndarray]):
        self.about = about
        self.digest = digest
        """SHA-256 that the file carries: two models with the same one answer the same."""
        self.runtime = runtime
        """What runs it, and its version."""
        self._run = run

    @property
    def runtime_name(self) -> str:
        """One of `RUNTIMES`."""
        return self.runtime.partition(" ")[0]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities."""
        return self.about.classes

    def decode(self, content: bytes) -> np.ndarray:
        """Bytes of an image file to the uint8 S×S×3 that this model was trained on. Raises `ImageError`."""
        return decode(content, self.about.size, self.about.resize, bit_depth=self.about.bit_depth)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Probabilities float32 N×K of uint8 N×S×S×3. Raises `DataError` for pixels of another kind."""
        size = self.about.size
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, 3):
            shape = "×".join(map(str, images.shape))
            raise DataError(f"images must be uint8 N×{size}×{size}×3, not {images.dtype} {shape}")
        if len(images) == 0:
            return np.empty((0, len(self.classes)), np.float32)
        starts = range(0, len(images), BATCH_SIZE)
        return np.concatenate([self._run(np.ascontiguousarray(images[i : i + BATCH_SIZE])) for i in starts])


def open_model(path: Path | str = BUNDLED, runtime: str | None = None, spin: bool = True) -> Predictor:
    """Open a model that tenfold exported, by default the one that comes with tenfold.

    runtime: one of `RUNTIMES`; by default what `choose_runtime` says. spin: whether ONNX Runtime keeps the cores busy
    while it waits for work: faster by a twentieth where nobody else wants them. Raises `ModelError` for a file that
    is missing, damaged or of another kind, `UsageError` where the runtime is not installed or not for such files.
    """
    return open_bytes(read_content(Path(path)), str(path), runtime, spin)


def open_bytes(content: bytes, name: str, runtime: str | None = None, spin: bool = True) -> Predictor:
    """Open a model from its bytes; `name` stands for it in errors. As `open_model`."""
    digest = verify(content, name)
    about = read_about(content, name)
    chosen = _checked(runtime) if runtime else choose_runtime(about.quantized)[0]
    if chosen == "openvino" and not about.quantized:
        raise UsageError(f"{name}: openvino runs int8 files only: its predictions are wrong for older float32 files")
    try:
        classifier = Predictor(about, digest, f"{chosen} {version(chosen)}", _START[chosen](content, spin))
        answer = classifier.predict(np.zeros((1, about.size, about.size, 3), np.uint8))
    except Exception as error:  # the runtimes raise kinds of their own
        raise ModelError(f"{name}: {chosen} cannot run it ({_first_line(error)})") from error
    if answer.shape != (1, len(about.classes)) or answer.dtype != np.float32 or not np.isfinite(answer).all():
        raise ModelError(f"{name}: it does not give a probability for each of {len(about.classes)} classes")
    return classifier


def installed_runtimes() -> list[str]:
    """The runtimes that are here."""
    return [runtime for runtime in RUNTIMES if importlib.util.find_spec(runtime) is not None]


def runtime_versions() -> str:
    """The runtimes that are here, each with its version."""
    return ", ".join(f"{runtime} {version(runtime)}" for runtime in installed_runtimes())


def choose_runtime(quantized: bool) -> tuple[str, str]:
    """Which runtime runs such a model here, and why, as a sentence. Raises `UsageError` for a wrong `VARIABLE`."""
    wanted = os.environ.get(VARIABLE) or "onnxruntime"
    if _checked(wanted, f"{VARIABLE}: ") == "openvino":
        chosen = "openvino" if quantized else "onnxruntime"
        return chosen, f"int8 files are run by OpenVINO, as {VARIABLE} says, the others by ONNX Runtime"
    return "onnxruntime", f"run by ONNX Runtime; {VARIABLE}=openvino lets OpenVINO run int8 files"


def _checked(runtime: str, where: str = "") -> str:
    if runtime not in RUNTIMES:
        raise UsageError(
            f"{where}unknown runtime {runtime!r}: choose {' or '.join(RUNTIMES)}{did_you_mean(runtime, RUNTIMES)}"
        )
    if runtime not in installed_runtimes():
        raise UsageError(f"{where}{runtime} is not installed: install it with pip install {runtime}")
    return runtime


# --- the runtimes ------------------------------------------------------------------------------------------------


def _start_onnxruntime(content: bytes, spin: bool) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # of its Windows builds, which read no variable
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def _start_openvino(content: bytes, _spin: bool) -> Callable[[np.ndarray], np.ndarray]:
    # Importing openvino reports to its maker unless this package is missing: so it is, for this process.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": cores(), "NUM_STREAMS": 1}
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(content), "CPU", settings)
    request, lock = compiled.create_infer_request(), threading.Lock()

    def run(images: np.ndarray) -> np.ndarray:
        with lock:
            return np.array(request.infer([images])[0])

    return run


_START = {"onnxruntime": _start_onnxruntime, "openvino": _start_openvino}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
