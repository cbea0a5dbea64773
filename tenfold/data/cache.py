"""Named data sets on this machine: four plain .npy files each, memory-mapped, and a manifest that is written last.

`TENFOLD_HOME`, else the user's cache folder, holds `data/NAME/` and, while something is on its way, `downloads/`.
"""

import contextlib
import io
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from tenfold.console import log_info
from tenfold.data import stored
from tenfold.data.archives import array_sha256, verify
from tenfold.data.dataset import Dataset, Split
from tenfold.data.decoders import Arrays
from tenfold.data.entry import DatasetEntry
from tenfold.data.stored import Images
from tenfold.errors import DataError, StorageError
from tenfold.files import atomic_write, format_object, parse_object, remove_temporaries, storage_errors, write_text

MANIFEST = "manifest.json"
_FORMAT = 1


@dataclass(frozen=True)
class Cached:
    """What `tenfold data download` answers. sha256: of each of the four arrays' bytes, by name (`train_images`, …)."""

    source: str
    path: str
    train: int
    test: int
    sha256: dict[str, str]


def home() -> Path:
    """The folder of everything that tenfold keeps for all runs."""
    if folder := os.environ.get("TENFOLD_HOME"):
        try:
            return Path(folder).expanduser().absolute()
        except RuntimeError as error:
            raise StorageError(f"TENFOLD_HOME is {folder}: there is no such home directory") from error
    from platformdirs import user_cache_path

    try:
        path = user_cache_path("tenfold")
    except RuntimeError:  # no HOME, and a user without a name, as in many containers
        path = Path("~")  # what older versions begin with then
    if not path.is_absolute():
        raise StorageError("there is no home directory for the cache: set TENFOLD_HOME to a folder that can be written")
    return path


@contextlib.contextmanager
def writing_home() -> Iterator[None]:
    """Make the cache's folder, which the block writes to; errors say how to put it elsewhere. Raises `StorageError`."""
    path, elsewhere = home(), "TENFOLD_HOME=FOLDER puts the cache elsewhere"
    try:
        with storage_errors(path):
            path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, FileNotFoundError) as error:
        raise StorageError(f"{path} cannot be a folder ({error.strerror}); {elsewhere}") from error
    except StorageError as error:
        raise StorageError(f"{error}; {elsewhere}") from error
    try:
        yield
    except StorageError as error:
        raise StorageError(f"{error}; {elsewhere}") from error


def ensure_cached(entry: DatasetEntry, from_path: Path | None = None) -> Cached:
    """Have a data set in the cache: what is there and whole stays, unless `from_path` is given; else it is fetched.

    Of two processes that get one at once, the second waits. Raises `DataError`, `UsageError`, `StorageError`.
    """
    with _lock():
        if from_path is None:
            try:
                return _cached(entry)
            except DataError as error:
                log_info(f"{error}; getting it")
        source, arrays = _get(entry, from_path)
        entry.check(arrays, source)
        _store(entry, source, arrays)
        shutil.rmtree(_downloads(), ignore_errors=True)
        return _cached(entry)


def _get(entry: DatasetEntry, from_path: Path | None) -> tuple[str, Arrays]:
    assert entry.read is not None, "what is generated is not kept"
    if from_path is not None:
        return str(from_path), entry.read(from_path)
    if entry.fetch is None:
        where = f" ({', '.join(entry.sources)})" if entry.sources else ""
        how = f"tenfold data download {entry.name} --from PATH"
        raise DataError(f"{entry.title} cannot be downloaded: get its files{where}, then {how}")
    return entry.fetch(_downloads())


def load_cached(entry: DatasetEntry) -> Dataset:
    """The cached data set, memory-mapped and read-only, verified by its checksums (0.2 s for CIFAR-10).

    Raises `DataError` when it is not there or damaged.
    """
    try:
        _, arrays, _ = _read(entry)
    except DataError as error:
        raise DataError(f"{error}; run: tenfold data download {entry.name}") from error
    train = Split(arrays["train_images"], arrays["train_labels"])
    return Dataset(entry.name, entry.classes, train, Split(arrays["test_images"], arrays["test_labels"]))


def delete_cached(entry: DatasetEntry) -> Path | None:
    """Delete a data set and partial downloads; returns the folder that went, or None when there was none."""
    with _lock():
        shutil.rmtree(_downloads(), ignore_errors=True)
        folder = _folder(entry)
        if not folder.exists():
            return None
        with storage_errors(folder):
            shutil.rmtree(folder)
        return folder


def _cached(entry: DatasetEntry) -> Cached:
    source, arrays, digests = _read(entry)
    train, test = len(arrays["train_labels"]), len(arrays["test_labels"])
    return Cached(source, str(_folder(entry)), train, test, digests)


def _folder(entry: DatasetEntry) -> Path:
    return home() / "data" / entry.name


def _downloads() -> Path:
    return home() / "downloads"


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    """Only one process at a time changes the cache. The lock dies with its process."""
    from filelock import FileLock, Timeout  # here, because loading needs no lock and should start fast

    path = home() / "data.lock"
    with writing_home():
        with storage_errors(path):
            lock = FileLock(path)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                log_info(f"Another process is changing the cache; waiting for it ({path})")
                lock.acquire()
        try:
            yield
        finally:
            lock.release()


def _store(entry: DatasetEntry, source: str, arrays: Arrays) -> None:
    """Put files in place one by one. What was good stays good meanwhile: the content is the same, by its checksums."""
    folder = _folder(entry)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        remove_temporaries(folder)
    for name in entry.shapes:
        with atomic_write(folder / f"{name}.npy") as file:
            file.write(npy_header(arrays[name].shape))
            file.write(np.ascontiguousarray(arrays[name]).data)
    write_text(folder / MANIFEST, format_object(_manifest(source, {name: arrays[name] for name in entry.shapes})))


def _manifest(source: str, arrays: Arrays) -> dict[str, object]:
    entries = {
        name: {"shape": array.shape, "dtype": str(array.dtype), "sha256": array_sha256(array)}
        for name, array in arrays.items()
    }
    return {"format": _FORMAT, "tenfold": version("tenfold"), "source": source, "arrays": entries}


def _read(entry: DatasetEntry) -> tuple[str, Arrays, dict[str, str]]:
    """Where the arrays came from; the arrays, memory-mapped and verified; their SHA-256. Raises `DataError`."""
    folder = _folder(entry)
    if not (folder / MANIFEST).exists():
        raise DataError(f"{entry.title} is not in the cache ({folder})")
    try:
        manifest = parse_object((folder / MANIFEST).read_bytes())
        if manifest["format"] != _FORMAT:
            raise ValueError(f"format {manifest['format']} instead of {_FORMAT}")
        source, noted = str(manifest["source"]), manifest["arrays"]
        # without published checksums, those of when it was stored tell whether it is damaged
        shapes = entry.shapes if entry.sha256 else {name: tuple(noted[name]["shape"]) for name in entry.shapes}
        digests = dict(entry.sha256) or {name: str(noted[name]["sha256"]) for name in entry.shapes}
        arrays = {name: map_array(folder / f"{name}.npy", shape) for name, shape in shapes.items()}
        verify(arrays, digests, entry.title, str(folder))
        entry.check(arrays, str(folder))
    except (OSError, ValueError, KeyError, TypeError, DataError) as error:
        raise DataError(f"the cached {entry.title} is damaged ({error})") from error
    return source, arrays, digests


def map_array(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Map a .npy file that is exactly as we write it; ValueError otherwise."""
    header = npy_header(shape)
    with path.open("rb") as file:
        if file.read(len(header)) != header or path.stat().st_size != len(header) + math.prod(shape):
            raise ValueError(f"{path} has a wrong header or length")
        return np.memmap(file, np.uint8, mode="r", offset=len(header), shape=shape)


def open_images(path: Path, shape: tuple[int, ...]) -> Images:
    """Open the images of a file as `map_array` does; many of them stay there, and are read as they are needed."""
    if math.prod(shape) <= stored.MOST_IN_MEMORY:
        return map_array(path, shape)
    return stored.StoredImages.open(path, npy_header(shape), shape)


def npy_header(shape: tuple[int, ...]) -> bytes:
    """What a .npy file of uint8 begins with. np.save itself would lose the reason when the disk is full."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return header.getvalue()
