"""A model file → probabilities: the one place that knows what runs it, ONNX Runtime or OpenVINO.

Such a file is ONNX with two entries of metadata: `tenfold`, JSON that says all about the model (`About`), and
`tenfold_sha256`, the digest of the whole file with its own 64 digits written as zeros. The runtimes load flipped
weights without a word; the digest catches them. Needs no torch and no onnx.

Shapes: N images of S×S pixels, K classes.
"""

import hashlib
import importlib.util
import math
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tenfold.data.image import RESIZES, decode
from tenfold.errors import DataError, ModelError, UsageError
from tenfold.files import parse_object, sha256
from tenfold.machine import cores

BUNDLED = Path(__file__).parent / "models" / "cifar10.onnx"
ABOUT, DIGEST = "tenfold", "tenfold_sha256"
FORMAT = 1
RUN_FILE = "model.onnx"  # in a run directory
BATCH_SIZE = 256
RUNTIMES = ("onnxruntime", "openvino")
VARIABLE = "TENFOLD_RUNTIME"
MOST_BYTES = 2**31  # protobuf's own limit
_MARK = DIGEST.encode() + b"\x12\x40"  # in protobuf: then a value follows, of 64 bytes
_METADATA = 14  # the number of the field in ONNX's ModelProto
_PICKLES = (b"\x80", b"PK\x03\x04")  # plain, and zipped as torch writes them


@dataclass(frozen=True)
class About:
    """What a model file says about itself.

    threshold: the least probability at which an answer is given when unsure ones are to be rejected; None where the
    model was trained without validation data. temperature: what the logits are divided by. accuracy: share of test
    images whose first guess is right. made_with: version, recipe, seed, and the name of the data. bit_depth: how many
    bits of 16-bit images are brought to 8; older files mean all. calibration: on how many validation images, and for
    which target error, threshold and temperature were chosen; None in older files.
    """

    classes: tuple[str, ...]
    size: int
    resize: str
    temperature: float
    threshold: float | None
    accuracy: float | None
    quantized: bool
    made_with: dict[str, Any]
    bit_depth: int = 16
    calibration: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain data, with the version of this format."""
        return {"format": FORMAT, **asdict(self)}

    @staticmethod
    def from_json(told: dict[str, Any]) -> "About":
        """Read and check what `to_json` gave. Raises `ValueError` that names what is wrong."""
        if told.get("format") != FORMAT:
            raise ValueError(f"format {told.get('format')!r} is unknown to this version")
        told = {"bit_depth": 16} | told
        for field, sound in _SOUND.items():
            if field not in told or not sound(told[field]):
                raise ValueError(f"{field} is missing or wrong")
        return About(
            **{field: told[field] for field in _SOUND}
            | {
                "classes": tuple(told["classes"]),
                "calibration": told.get("calibration") if isinstance(told.get("calibration"), dict) else None,
            }
        )


def _is_share(value: Any) -> bool:
    return value is None or (isinstance(value, float | int) and 0 <= value <= 1)


_SOUND: dict[str, Callable[[Any], bool]] = {
    "classes": lambda value: isinstance(value, list) and len(value) >= 2 and all(isinstance(v, str) for v in value),
    "size": lambda value: isinstance(value, int) and 1 <= value <= 1024,
    "resize": lambda value: value in RESIZES,
    "temperature": lambda value: isinstance(value, float | int) and value > 0 and math.isfinite(value),
    "threshold": _is_share,
    "accuracy": _is_share,
    "quantized": lambda value: isinstance(value, bool),
    "made_with": lambda value: isinstance(value, dict),
    "bit_depth": lambda value: isinstance(value, int) and 8 <= value <= 16,
}


class Classifier:
    """An opened model. Safe to use from many threads; made by `open_model`."""

    def __init__(self, about: About, digest: str, runtime: str, run: Callable[[np.ndarray], np.ndarray]):
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


def open_model(path: Path | str = BUNDLED, runtime: str | None = None, spin: bool = True) -> Classifier:
    """Open a model that tenfold exported, by default the one that comes with tenfold.

    runtime: one of `RUNTIMES`; by default what `choose_runtime` says. spin: whether ONNX Runtime keeps the cores busy
    while it waits for work: faster by a twentieth where nobody else wants them. Raises `ModelError` for a file that
    is missing, damaged or of another kind, `UsageError` where the runtime is not installed or not for such files.
    """
    return open_bytes(read_content(Path(path)), str(path), runtime, spin)


def open_bytes(content: bytes, name: str, runtime: str | None = None, spin: bool = True) -> Classifier:
    """Open a model from its bytes; `name` stands for it in errors. As `open_model`."""
    digest = verify(content, name)
    about = read_about(content, name)
    chosen = _checked(runtime) if runtime else choose_runtime(about.quantized)[0]
    if chosen == "openvino" and not about.quantized:
        raise UsageError(f"{name}: openvino runs 8-bit files only: its answers are wrong for earlier files in float32")
    try:
        classifier = Classifier(about, digest, f"{chosen} {version(chosen)}", _START[chosen](content, spin))
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
        return chosen, f"8-bit ones are run by OpenVINO, as {VARIABLE} says, the others by ONNX Runtime"
    return "onnxruntime", f"run by ONNX Runtime; {VARIABLE}=openvino lets OpenVINO run the 8-bit ones"


def _checked(runtime: str, where: str = "") -> str:
    if runtime not in RUNTIMES:
        raise UsageError(f"{where}unknown runtime {runtime!r}: choose {' or '.join(RUNTIMES)}")
    if runtime not in installed_runtimes():
        raise UsageError(f"{where}{runtime} is not installed: install it with pip install {runtime}")
    return runtime


def find_in_run(run: Path) -> Path | None:
    """The model file of a run directory, as its manifest knows it; None where it is to be exported first, or again.

    Raises `ModelError` for a run that has not finished training, or whose file is damaged.
    """
    manifest = _read_json(run / "manifest.json", f"{run} is not a run directory whose training has finished")
    file, files = run / RUN_FILE, manifest.get("files")
    if not isinstance(files, dict) or RUN_FILE not in files or not file.exists():
        return None
    if not file.is_file() or sha256(file) != files[RUN_FILE]:
        raise ModelError(f"{file} is damaged: write it again with tenfold export {run}")
    results = _read_json(run / "results.json", f"{run} has no scores") if "results.json" in files else {}
    calibration = results.get("calibration") or {}
    about = read_about(read_content(file), str(file))
    wanted = calibration.get("temperature", 1.0), calibration.get("threshold")
    same = about.calibration is None or about.calibration.get("target_error") == calibration.get("promised_error")
    return file if same and (about.temperature, about.threshold) == wanted else None


def _read_json(path: Path, otherwise: str) -> dict[str, Any]:
    try:
        return parse_object(path.read_bytes())
    except OSError as error:
        raise ModelError(otherwise) from error
    except ValueError as error:
        raise ModelError(f"{path}: cannot be read ({error})") from error


# --- the file ----------------------------------------------------------------------------------------------------


def read_about(content: bytes, name: str) -> About:
    """What a model file says about itself. Raises `ModelError`."""
    try:
        return About.from_json(parse_object(_metadata(content)[ABOUT]))
    except (ValueError, KeyError, IndexError) as error:
        raise ModelError(f"{name}: its metadata is not understood ({error})") from error


def read_content(path: Path) -> bytes:
    """Read a model file whole; pickles are refused unopened. Raises `ModelError`."""
    try:
        with path.open("rb") as file:
            head = file.read(4)
            if head.startswith(_PICKLES):
                raise ModelError(f"{path} is a pickle or an archive, which is never opened: give a run or a .onnx file")
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):  # a device may never end
                raise ModelError(f"{path} is no file")
            if status.st_size >= MOST_BYTES:
                raise ModelError(f"{path} is too large to be a model")
            return head + file.read()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error


def seal(content: bytes) -> bytes:
    """Write the digest into a model whose metadata `DIGEST` is 64 zeros."""
    at = _digest_at(content)
    return content[:at] + _digest(content, at) + content[at + 64 :]


def verify(content: bytes, name: str) -> str:
    """Compare a model with the digest that it carries, and return it. Raises `ModelError`."""
    if content.count(_MARK) != 1:
        raise ModelError(f"{name} is not a model that tenfold exported, or it is cut short")
    at = _digest_at(content)
    if content[at : at + 64] != _digest(content, at):
        raise ModelError(f"{name} is damaged: its bytes are not those that were exported")
    return content[at : at + 64].decode()


def _digest_at(content: bytes) -> int:
    return content.index(_MARK) + len(_MARK)


def _digest(content: bytes, at: int) -> bytes:
    view = memoryview(content)
    digest = hashlib.sha256(view[:at])
    digest.update(b"0" * 64)
    digest.update(view[at + 64 :])
    return digest.hexdigest().encode()


def _metadata(content: bytes) -> dict[str, bytes]:
    """The metadata of an ONNX file, read without onnx: weights are stepped over. Raises `ValueError`, `IndexError`."""
    entries = (dict(_fields(entry)) for number, entry in _fields(memoryview(content)) if number == _METADATA)
    return {bytes(entry[1]).decode(): bytes(entry.get(2, b"")) for entry in entries if 1 in entry}


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Numbers and bytes of a protobuf message's fields, those that are numbers left out."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        if key & 7 == 0:
            _, at = _varint(message, at)
            continue
        if key & 7 != 2:
            raise ValueError("a field of a kind that ONNX does not use")
        length, at = _varint(message, at)
        if at + length > len(message):
            raise ValueError("cut short")
        yield key >> 3, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number that begins at `at`, seven bits a byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at + shift // 7]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at + shift // 7 + 1
    raise ValueError("a number that does not end")


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
