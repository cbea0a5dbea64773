"""Images that stay in a file are, when asked for, those that NumPy would give; and nothing else is read."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tenfold.data import cache, stored
from tenfold.data.cache import npy_header, open_images
from tenfold.data.dataset import Split
from tenfold.data.stored import StoredImages, batches, hash_pixels, rows_of
from tenfold.errors import DataError

SHAPE = (7, 4, 5, 3)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)


@pytest.fixture
def path(tmp_path: Path, pixels: np.ndarray) -> Path:
    path = tmp_path / "images.npy"
    path.write_bytes(npy_header(SHAPE) + pixels.tobytes())
    return path


@pytest.fixture
def images(path: Path) -> StoredImages:
    return StoredImages.open(path, npy_header(SHAPE), SHAPE)


INDICES = {
    "a number": 3,
    "a number from the end": -1,
    "NumPy's number": np.int64(2),
    "a slice": slice(1, 6, 2),
    "backwards": slice(None, None, -1),
    "none of them": slice(3, 3),
    "numbers in any order, twice": np.array([5, 0, 5, -2]),
    "a list": [2, 1],
    "booleans": np.array([True, False, True, False, False, True, False]),
}


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_an_index_reads_what_numpy_gives(images: StoredImages, pixels: np.ndarray, index: Any) -> None:
    read = images[index]
    assert read.dtype == np.uint8 and read.shape == pixels[index].shape
    assert np.array_equal(read, pixels[index])


@pytest.mark.parametrize("index", list(INDICES.values())[3:], ids=list(INDICES)[3:])
def test_what_is_selected_is_read_later(images: StoredImages, pixels: np.ndarray, index: Any) -> None:
    selected = images.select(index)
    assert selected.shape == pixels[index].shape and np.array_equal(selected[:], pixels[index])
    assert np.array_equal(selected.select(slice(0, 1))[:], pixels[index][:1])


def test_a_number_beyond_the_last_is_an_error_as_in_numpy(images: StoredImages) -> None:
    with pytest.raises(IndexError):
        images[7]
    assert len(list(images)) == 7


def test_numpy_reads_all(images: StoredImages, pixels: np.ndarray) -> None:
    assert np.array_equal(np.asarray(images), pixels) and np.asarray(images, np.float32).dtype == np.float32
    assert images.nbytes == pixels.nbytes and len(images) == 7 and images.shape == SHAPE
    with pytest.raises(ValueError, match="copied"):
        np.array(images, copy=False)


def test_batches_and_digest_are_those_of_an_array(
    images: StoredImages, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "_BATCH_BYTES", 3 * 60)
    for given in (images, pixels):
        parts = list(batches(given))
        assert [len(part) for part in parts] == [3, 3, 1] and np.array_equal(np.concatenate(parts), pixels)
        assert hash_pixels(given).digest() == hashlib.sha256(pixels.tobytes()).digest()


def test_a_split_of_stored_images_reads_nothing(path: Path, images: StoredImages, pixels: np.ndarray) -> None:
    split = Split(images, np.arange(7, dtype=np.uint8))
    path.write_bytes(b"")  # so reading would fail
    half = split[np.array([6, 1])][1:]
    assert len(half) == 1 and half.labels.tolist() == [1] and isinstance(half.images, StoredImages)
    with pytest.raises(DataError, match="cut short while it was in use: start again"):
        half.images[0]


def test_a_file_that_is_deleted_meanwhile_is_read_all_the_same(
    path: Path, images: StoredImages, pixels: np.ndarray
) -> None:
    """Another process removes what the cache has of a folder as it was before."""
    path.unlink()
    assert np.array_equal(images[:], pixels)


def test_many_threads_read_their_own_rows(images: StoredImages, pixels: np.ndarray) -> None:
    """Without the lock, rows of others."""
    numbers = np.random.default_rng(1).integers(0, 7, 4000)
    with ThreadPoolExecutor(8) as pool:
        for number, row in zip(numbers, pool.map(lambda number: images[int(number)], numbers), strict=True):
            assert np.array_equal(row, pixels[number])


def test_the_cache_maps_few_images_and_leaves_many_where_they_are(
    path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "MOST_IN_MEMORY", pixels.nbytes)
    assert isinstance(open_images(path, SHAPE), np.memmap)
    monkeypatch.setattr(stored, "MOST_IN_MEMORY", pixels.nbytes - 1)
    many = open_images(path, SHAPE)
    assert isinstance(many, StoredImages) and np.array_equal(many[:], pixels)
    assert isinstance(rows_of(many, [1]), StoredImages) and isinstance(rows_of(pixels, [1]), np.ndarray)
    for damaged in (path.read_bytes()[:-1], b"\0" + path.read_bytes()[1:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="wrong header or length"):
            cache.open_images(path, SHAPE)
