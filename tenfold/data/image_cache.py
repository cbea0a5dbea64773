"""The decoded images of a folder, and what is kept of them.

What was decoded once is kept in the cache as one memory-mapped array with an index, under a name made of everything
that decides its pixels: the files' names, sizes and times, the input size, the resize mode, the bit depth, the decoder.
A folder that changes in any of these is read again. The folder itself is only read.

Legend: N image files, S×S pixels.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import __version__ as pillow_version

from tenfold.console import progress, remark
from tenfold.data.cache import home, map_array, npy_header, writing_home
from tenfold.data.dataset import SKIP_BAD
from tenfold.data.entries import Entry
from tenfold.data.frames import count_frames
from tenfold.data.ignored import PICTURES
from tenfold.data.image import decode_measured, read_file, resize_pixels, sniff
from tenfold.data.listing import File, Listing, shown_name
from tenfold.errors import ImageError
from tenfold.files import TEMPORARY_SUFFIX, atomic_write, parse_object, sha256, storage_errors, umask, write_text
from tenfold.machine import cores

_FORMAT = 2  # of what is kept, and of how files are decoded
_ABANDONED = 24 * 3600  # seconds after which nobody is decoding into a folder any longer
_BATCH = 256  # files decoded at a time, so that memory stays bounded


@dataclass(frozen=True)
class Pictures:
    """A folder that was read: a row of `images` (uint8 N×S×S×3, memory-mapped) and of `entries` for every file."""

    listing: Listing
    entries: list[Entry]
    images: np.ndarray
    resize: str
    bit_depth: int = 16
    """How many bits of 16-bit values were brought to 8."""
    skip_bad: str = SKIP_BAD

    @property
    def skipped(self) -> int:
        """How many image files were left out because they cannot be read."""
        return sum(entry.bad for entry in self.entries)

    @property
    def own_bit_depth(self) -> int:
        """How many bits the 16-bit images use together, at least 8; 16 where there is none such.

        Of all of the folder, test images included: it is a property of the camera, and to know it tells nothing else.
        """
        return max((max(8, entry.bits) for entry in self.entries if entry.bits), default=16)

    @property
    def sha256(self) -> str:
        """SHA-256 of the names, splits, classes and contents of the images, in hexadecimal."""
        files, classes = self.listing.files, self.listing.classes
        rows = [(files[row], self.entries[row].sha256) for row in self.good()]
        told = sorted((file.name, file.split, classes[file.label], content) for file, content in rows)
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def good(self) -> list[int]:
        """Rows that hold an image."""
        return [row for row, entry in enumerate(self.entries) if not entry.reason]


def read_pictures(listing: Listing, size: int, resize: str, bit_depth: int | None = None) -> Pictures:
    """Decode every file of a listing, or take from the cache what was decoded before.

    bit_depth: how many bits of 16-bit values are used, 8 to 16; by default as many as these images use. Raises
    `StorageError` where the cache cannot be written.
    """
    whole = _read_pictures(listing, size, resize, 16)
    wanted = whole.own_bit_depth if bit_depth is None else bit_depth
    is_deep = any(entry.bits for entry in whole.entries)
    return _read_pictures(listing, size, resize, wanted) if is_deep and wanted != 16 else whole


def _read_pictures(listing: Listing, size: int, resize: str, bit_depth: int) -> Pictures:
    if not listing.files:
        return Pictures(listing, [], np.empty((0, size, size, 3), np.uint8), resize)
    place = _place(listing.root) + f"{size}-{resize}-{bit_depth}-"
    path = _folder() / f"{place}{_digest([_FORMAT, pillow_version, *_stamps(listing)])}"
    if not path.is_dir():
        _decode_all(listing, size, resize, bit_depth, path)
        for stale in _folder().glob(f"{place}*"):
            if stale != path:
                shutil.rmtree(stale, ignore_errors=True)  # the folder as it was before
    try:
        return _open_cached(listing, size, resize, bit_depth, path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        remark(f"{path} is damaged ({error}): reading the folder again")
        shutil.rmtree(path, ignore_errors=True)
        _decode_all(listing, size, resize, bit_depth, path)
        return _open_cached(listing, size, resize, bit_depth, path)


def forget_folder(root: Path) -> Path | None:
    """Delete what the cache keeps of a folder, of any size; where that was, or None where there was nothing."""
    found = list(_folder().glob(f"{_place(root)}*"))
    for path in found:
        with storage_errors(path):
            shutil.rmtree(path)
    return found[0] if found else None


def _folder() -> Path:
    return home() / "data" / "folders"


def _place(root: Path) -> str:
    return f"{_digest([shown_name(str(root.resolve()))])}-"


def _digest(values: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def _stamps(listing: Listing) -> Iterator[object]:
    """What changes when a file does."""
    yield from listing.classes
    for file in listing.files:
        try:
            status = file.path.stat()
            readable = os.access(file.path, os.R_OK)  # else mended permissions would go unnoticed
            yield [file.name, file.split, file.label, status.st_size, status.st_mtime_ns, readable]
        except OSError:
            yield [file.name, file.split, file.label]


@writing_home()
def _decode_all(listing: Listing, size: int, resize: str, bit_depth: int, path: Path) -> None:
    """Fill the cache: to a temporary folder that is renamed when it is whole."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path.parent)
        draft = Path(tempfile.mkdtemp(dir=path.parent, prefix=".", suffix=TEMPORARY_SUFFIX))
    try:
        entries = []
        with atomic_write(draft / "images.npy") as file:
            file.write(npy_header((len(listing.files), size, size, 3)))
            for entry, pixels in _decoded(listing, size, resize, bit_depth):
                entries.append(asdict(entry))
                file.write(pixels.data)
        index = {"format": _FORMAT, "sha256": sha256(draft / "images.npy"), "entries": entries}
        write_text(draft / "index.json", json.dumps(index) + "\n")
        with storage_errors(path):
            if not path.exists():  # another process may have been faster, with the same result
                draft.chmod(0o777 & ~umask())  # others who share the cache read it, too
                draft.rename(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    """Delete what killed processes left here half-decoded, a day ago or more: nobody fills it any longer."""
    for path in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        if time.time() - path.stat().st_mtime > _ABANDONED:
            shutil.rmtree(path, ignore_errors=True)


def _decoded(listing: Listing, size: int, resize: str, bit_depth: int) -> Iterator[tuple[Entry, np.ndarray]]:
    """Decode the files in order, on all cores: Pillow works without Python's lock."""
    blank = np.zeros((size, size, 3), np.uint8)

    def work(file: File) -> tuple[Entry, np.ndarray]:
        content = b""
        try:
            content = read_file(file.path)
            pixels, bits = decode_measured(content, bit_depth=bit_depth)
        except ImageError as error:
            kind = sniff(content)
            bad = kind is not None or file.path.suffix.casefold() in PICTURES
            return Entry(kind=kind, reason=str(error), bad=bad), blank
        digest, kind = hashlib.sha256(content).hexdigest(), sniff(content)
        entry = Entry(digest, kind, bits=bits, frames=count_frames(content, kind))
        return entry, resize_pixels(pixels, size, resize)

    with progress("reading images", len(listing.files)) as bar, ThreadPoolExecutor(cores()) as pool:
        for begin in range(0, len(listing.files), _BATCH):
            batch = listing.files[begin : begin + _BATCH]
            yield from pool.map(work, batch)
            bar(len(batch))


def _open_cached(listing: Listing, size: int, resize: str, bit_depth: int, path: Path) -> Pictures:
    index = parse_object((path / "index.json").read_bytes())
    if sha256(path / "images.npy") != index["sha256"]:
        raise ValueError("images.npy is not what was written")
    entries = [Entry(**entry) for entry in index["entries"]]
    images = map_array(path / "images.npy", (len(listing.files), size, size, 3))
    return Pictures(listing, entries, images, resize, bit_depth)
