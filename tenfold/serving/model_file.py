"""A model file: what it says about itself, its digest, and where a run has it.

Such a file is ONNX with two entries of metadata: `tenfold`, JSON that says all about the model (`ModelMetadata`), and
`tenfold_sha256`, the digest of the whole file with its own 64 digits written as zeros. The runtimes load flipped
weights without a word; the digest catches them. Needs no torch and no onnx.
"""

import hashlib
import math
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tenfold.data.resize import RESIZES, with_current_resize
from tenfold.errors import ModelError
from tenfold.files import parse_object, sha256

ABOUT, DIGEST = "tenfold", "tenfold_sha256"
FORMAT = 1
RUN_FILE = "model.onnx"  # in a run directory
MOST_BYTES = 2**31  # protobuf's own limit
_MARK = DIGEST.encode() + b"\x12\x40"  # in protobuf: then a value follows, of 64 bytes
_METADATA = 14  # the number of the field in ONNX's ModelProto
_PICKLES = (b"\x80", b"PK\x03\x04")  # plain, and zipped as torch writes them


@dataclass(frozen=True)
class ModelMetadata:
    """What a model file says about itself.

    threshold: the confidence below which predictions are rejected, if rejection is on; None where the
    model was trained without validation data. temperature: what the logits are divided by. accuracy: share of test
    images whose top-1 prediction is correct. made_with: version, recipe, seed, and the name of the data. bit_depth: how
    many bits of 16-bit images are brought to 8; older files mean all. calibration: the number of
    validation images and the target error that threshold and temperature were fitted for; None in older files.
    distance: of the second output, `distance`: `threshold`, beyond which predictions are rejected (None without enough
    validation images), and what it was fitted on; None where the file does not have that output, as older ones.
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
    distance: dict[str, Any] | None = None

    @property
    def distance_threshold(self) -> float | None:
        """The distance beyond which predictions are rejected, if rejection is on; None where there is none."""
        return self.distance["threshold"] if self.distance else None

    def to_json(self) -> dict[str, Any]:
        """As plain data, with the version of this format."""
        return {"format": FORMAT, **asdict(self)}

    @staticmethod
    def from_json(values: dict[str, Any]) -> "ModelMetadata":
        """Read and check what `to_json` gave. Raises `ValueError` that names what is wrong."""
        if values.get("format") != FORMAT:
            raise ValueError(f"format {values.get('format')!r} is unknown to this version")
        values = {"bit_depth": 16, "distance": None} | with_current_resize(values)
        for field, sound in _SOUND.items():
            if field not in values or not sound(values[field]):
                raise ValueError(f"{field} is missing or wrong")
        return ModelMetadata(
            **{field: values[field] for field in _SOUND}
            | {
                "classes": tuple(values["classes"]),
                "calibration": values.get("calibration") if isinstance(values.get("calibration"), dict) else None,
            }
        )


def _is_share(value: Any) -> bool:
    return value is None or (isinstance(value, float | int) and 0 <= value <= 1)


def _is_distance(value: Any) -> bool:
    threshold = value.get("threshold", "") if isinstance(value, dict) else value
    return threshold is None or (isinstance(threshold, float | int) and math.isfinite(threshold))


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
    "distance": _is_distance,
}


def read_about(content: bytes, name: str) -> ModelMetadata:
    """What a model file says about itself. Raises `ModelError`."""
    try:
        return ModelMetadata.from_json(parse_object(_metadata(content)[ABOUT]))
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


# --- in a run directory ----------------------------------------------------------------------------------------


class RunFile(NamedTuple):
    """The model file of a run. is_current: whether it has the run's calibration, not that of earlier scores."""

    path: Path
    is_current: bool


def find_in_run(run: Path) -> RunFile | None:
    """The model file of a run directory, as its manifest knows it; None where none was exported.

    Raises `ModelError` for a run that has not finished training, or whose file is damaged.
    """
    manifest = _read_json(run / "manifest.json", f"{run} is not a run directory whose training has finished")
    file, files, before = run / RUN_FILE, manifest.get("files"), manifest.get("before")
    if not isinstance(files, dict) or RUN_FILE not in files or not file.exists():
        return None
    # an export that was killed may have left the file before it
    sound = (files[RUN_FILE], before.get(RUN_FILE) if isinstance(before, dict) else None)
    if not file.is_file() or sha256(file) not in sound:
        raise ModelError(f"{file} is damaged: write it again with tenfold export {run}")
    results = _read_json(run / "results.json", f"{run} has no scores") if "results.json" in files else {}
    about = read_about(read_content(file), str(file))
    return RunFile(file, _has_calibration(about, results.get("calibration") or {}) and _has_distance(about, results))


def _has_calibration(about: ModelMetadata, calibration: dict[str, Any]) -> bool:
    wanted = calibration.get("temperature", 1.0), calibration.get("threshold")
    same = about.calibration is None or about.calibration.get("target_error") == calibration.get(
        "target_error",
        calibration.get("promised_error"),  # the name in runs of earlier versions
    )
    return same and (about.temperature, about.threshold) == wanted


def _has_distance(about: ModelMetadata, results: dict[str, Any]) -> bool:
    """Whether the file has the run's distance; int8 files have a threshold of their own for it."""
    rejection = results.get("rejection")
    same = about.quantized or about.distance_threshold == (rejection or {}).get("threshold")
    return rejection is None or (about.distance is not None and same)


def _read_json(path: Path, otherwise: str) -> dict[str, Any]:
    try:
        return parse_object(path.read_bytes())
    except OSError as error:
        raise ModelError(otherwise) from error
    except ValueError as error:
        raise ModelError(f"{path}: cannot be read ({error})") from error
