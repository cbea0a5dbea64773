"""Images that stay in a file, and are read as they are needed: those of a large folder do not fit into memory.

Rows are read, not mapped: pages of a mapped file count as memory of the process until the system takes them back.

Legend: N images, H×W pixels.
"""

import hashlib
import math
import os
import threading
import weakref
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from tenfold.errors import DataError

MOST_IN_MEMORY = 2**29
"""Bytes of a folder's decoded images; of larger ones the splits are views of the file."""
_BATCH_BYTES = 2**24  # read at a time where all are read


class StoredImages:
    """Images uint8 N×H×W×3 in a .npy file: `images[index]` reads some as an array, `select` chooses without reading.

    The file stays open, so that it may be deleted meanwhile. Safe from many threads.
    """

    dtype, ndim = np.dtype(np.uint8), 4

    def __init__(self, source: "_Rows", numbers: np.ndarray):
        self._source, self._numbers = source, numbers
        self.shape: tuple[int, ...] = (len(numbers), *source.shape)

    @classmethod
    def open(cls, path: Path, header: bytes, shape: tuple[int, ...]) -> "StoredImages":
        """The images of a file that has this header, and nothing behind them. Raises `OSError`, `ValueError`."""
        source = _Rows(path, len(header), shape[1:])
        if source.file.read(len(header)) != header or path.stat().st_size != len(header) + math.prod(shape):
            raise ValueError(f"{path} has a wrong header or length")
        return cls(source, np.arange(shape[0]))

    def __len__(self) -> int:
        return len(self._numbers)

    def __repr__(self) -> str:
        return f"StoredImages({len(self):,} images of {self.shape[2]}×{self.shape[1]} pixels in {self._source.path})"

    @property
    def nbytes(self) -> int:
        """Bytes that they would take in memory."""
        return math.prod(self.shape)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read an image (H×W×3), or those of a slice or of an array of numbers or booleans (a new array M×H×W×3)."""
        if isinstance(index, tuple) or index is Ellipsis:
            raise IndexError("stored images are indexed along their first axis only")
        chosen = self._numbers[index]
        return self._source.read(np.atleast_1d(chosen)).reshape(*chosen.shape, *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Read all of them."""
        if copy is False:
            raise ValueError("stored images are copied into memory")
        return self[:] if dtype is None else self[:].astype(dtype)

    def select(self, index: Any) -> "StoredImages":
        """Those of a slice or of an array of numbers or booleans; nothing is read."""
        return StoredImages(self._source, self._numbers[index])


class _Rows:
    """The file, and how rows are read from it."""

    def __init__(self, path: Path, offset: int, shape: tuple[int, ...]):
        self.path, self.shape, self._offset = path, shape, offset
        self.file, self._lock = FileIO(path), threading.Lock()
        weakref.finalize(self, self.file.close)

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """The rows of these numbers, in this order: uint8 M×H×W×3. Raises `DataError` for a damaged file."""
        rows = np.empty((len(numbers), *self.shape), np.uint8)
        size = math.prod(self.shape)
        for row, number in zip(rows, numbers.tolist(), strict=True):
            if self._read_into(row, self._offset + number * size) != size:
                raise DataError(f"{self.path} was cut short while it was in use: start again, and it is made again")
        return rows

    def _read_into(self, row: np.ndarray, place: int) -> int:
        """Fill a row from that place of the file on; return how many bytes there were."""
        if hasattr(os, "preadv"):  # a forked process shares the place of `seek`
            return os.preadv(self.file.fileno(), [row.data], place)
        with self._lock:
            self.file.seek(place)
            return self.file.readinto(row.data) or 0


Images = np.ndarray | StoredImages
"""uint8 N×H×W×3, in memory or in a file: `images[index]` is an array in both cases."""


def rows_of(images: Images, index: Any) -> Images:
    """The images of a slice or of an array of numbers or booleans, without reading stored ones."""
    return images.select(index) if isinstance(images, StoredImages) else images[index]


def batches(images: Images) -> Iterator[np.ndarray]:
    """All images, in order, as arrays of some megabytes."""
    step = max(1, _BATCH_BYTES // max(1, math.prod(images.shape[1:])))
    for begin in range(0, len(images), step):
        yield images[begin : begin + step]


def hash_pixels(images: Images) -> "hashlib._Hash":
    """SHA-256 of the bytes of all pixels, in order, to which more can be added."""
    hashed = hashlib.sha256()
    for batch in batches(images):
        hashed.update(np.ascontiguousarray(batch).data)
    return hashed
