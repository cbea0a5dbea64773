"""The decoded images of a folder, and what is kept of them.

What was decoded once is kept in the cache as one memory-mapped array with an index, under a name made of everything
that decides its pixels: the files' names, sizes and times, the input size, the resize mode, the bit depth, the decoder.
A folder that changes in any of these is read again, and what was kept of it before is removed. The folder itself is
only read.

Legend: N image files, S×S pixels.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import __version__ as pillow_version

from tenfold.console import log_info, progress
from tenfold.data.cache import home, npy_header, open_images, writing_home
from tenfold.data.dataset import SKIP_BAD
from tenfold.data.entries import Entry, own_bit_depth
from tenfold.data.formats import sniff
from tenfold.data.frames import count_frames
from tenfold.data.ignored import IMAGE_SUFFIXES
from tenfold.data.image import Decoded, decode_measured, read_file, resize_pixels
from tenfold.data.listing import File, Listing, shown_name
from tenfold.data.modes import FULL_DEPTH, LEAST_DEPTH
from tenfold.data.resize import names_of
from tenfold.data.stored import Images
from tenfold.errors import ImageError, StorageError
from tenfold.files import TEMPORARY_SUFFIX, atomic_write, parse_object, sha256, storage_errors, umask, write_text
from tenfold.machine import cores

_FORMAT = 3  # of what is kept, and of how files are decoded
_ABANDONED = 24 * 3600  # seconds after which nobody is decoding into a folder any longer
_TRIES = 3
_BATCH = 256  # files decoded at a time, so that memory stays bounded


@dataclass(frozen=True)
class ImageFolder:
    """A folder that was read: a row of `images` (uint8 N×S×S×3, in a file) and of `entries` for every file."""

    listing: Listing
    entries: list[Entry]
    images: Images
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
        return own_bit_depth(self.entries)

    @property
    def sha256(self) -> str:
        """SHA-256 of the names, splits, classes and contents of the images, and of their groups and weights."""
        files, classes = self.listing.files, self.listing.classes
        rows = [(files[row], self.entries[row].sha256) for row in self.good()]
        index: list[tuple[object, ...]] = sorted(
            (file.name, file.split, classes[file.label], content) for file, content in rows
        )
        if any(file.group or file.weight != 1 for file, _ in rows):
            index += sorted((file.name, file.group, file.weight) for file, _ in rows)
        return hashlib.sha256(json.dumps(index).encode()).hexdigest()

    def good(self) -> list[int]:
        """Rows that hold an image."""
        return [row for row, entry in enumerate(self.entries) if not entry.reason]


def read_images(listing: Listing, size: int, resize: str, bit_depth: int | None = None) -> ImageFolder:
    """Decode every file of a listing, or take from the cache what was decoded before.

    bit_depth: how many bits of 16-bit values are used, 8 to 16; by default as many as these images use. Raises
    `StorageError` where the cache cannot be written.
    """
    if not listing.files:
        return ImageFolder(listing, [], np.empty((0, size, size, 3), np.uint8), resize, bit_depth or FULL_DEPTH)
    request = _Request(listing, size, resize, bit_depth)
    for _ in range(_TRIES):  # another process may remove it as outdated
        found = request.kept() or _decode_all(request)
        if found:
            return found
    raise StorageError(f"{_folder()}: what is written there is damaged or gone at once: check the disk")


@dataclass(frozen=True)
class _Request:
    """What is asked for; bit_depth: None for as many bits as the images use."""

    listing: Listing
    size: int
    resize: str
    bit_depth: int | None

    @cached_property
    def places(self) -> tuple[str, ...]:
        """With what the names of all that is kept of this folder in this size begin: today's, then older ones."""
        labels = self.listing.labels  # which image files they are is up to these
        place = _place(self.listing.root) + (f"{_digest([shown_name(str(labels.path.absolute()))])}-" if labels else "")
        return tuple(f"{place}{self.size}-{name}-" for name in names_of(self.resize))

    @cached_property
    def state(self) -> str:
        """With what the names of all that is kept of the folder as it is now end."""
        return _digest([_FORMAT, pillow_version, *_stamps(self.listing)])

    def path(self, bit_depth: int | None, place: str = "") -> Path:
        """Where the images lie, scaled by so many bits; None for as many as they use."""
        return _folder() / f"{place or self.places[0]}{bit_depth or 'own'}-{self.state}"

    def kept(self) -> ImageFolder | None:
        """What the cache has."""
        return next((found for place in self.places if (found := self._kept_at(place))), None)

    def _kept_at(self, place: str) -> ImageFolder | None:
        own = _open_kept(self, self.path(None, place))
        if own and _fits(own.entries, own.bit_depth, self.bit_depth):
            return own
        return _open_kept(self, self.path(self.bit_depth, place)) if self.bit_depth else None


def _fits(entries: Sequence[Entry], bit_depth: int, wanted: int | None) -> bool:
    """Whether images scaled by `bit_depth` are what they are scaled by `wanted`."""
    return wanted in (None, bit_depth) or not any(entry.bits for entry in entries)


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
    """What changes when a file does; in a label file, labels change more often than the files that it names."""
    yield from () if listing.labels else listing.classes
    for file in listing.files:
        named = [file.name] if listing.labels else [file.name, file.split, file.label]
        try:
            status = file.path.stat()
            readable = os.access(file.path, os.R_OK)  # else mended permissions would go unnoticed
            yield [*named, status.st_size, status.st_mtime_ns, readable]
        except OSError:
            yield named


@writing_home()
def _decode_all(request: _Request) -> ImageFolder | None:
    """Fill the cache: to a temporary folder that is renamed when it is whole. None where it went at once."""
    folder = _folder()
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        draft = Path(tempfile.mkdtemp(dir=folder, prefix=".", suffix=TEMPORARY_SUFFIX))
    try:
        entries, bit_depth = _write_images(request, draft / "images.npy")
        index = {"format": _FORMAT, "sha256": sha256(draft / "images.npy"), "bit_depth": bit_depth}
        write_text(draft / "index.json", json.dumps(index | {"entries": [asdict(entry) for entry in entries]}) + "\n")
        path = request.path(None if _fits(entries, own_bit_depth(entries), request.bit_depth) else request.bit_depth)
        with storage_errors(path):
            draft.chmod(0o777 & ~umask())  # others who share the cache read it, too
            _rename(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    _remove_older(request)
    return _open_kept(request, path)


def _rename(draft: Path, path: Path) -> None:
    try:
        draft.rename(path)
    except OSError:
        if not path.is_dir():  # else another process was faster, with the same result
            raise


def _write_images(request: _Request, path: Path) -> tuple[list[Entry], int]:
    """Write the pixels of all files, in order; the entry of each, and by how many bits they are scaled.

    How many bits a folder uses is known when all of it is decoded. Each file is scaled by as many as were seen so far,
    and those that came before one that uses more are decoded again.
    """
    listing, size = request.listing, request.size
    scale, blank = _Scale(request.bit_depth), np.zeros((size, size, 3), np.uint8)
    entries, scaled, header = [], [], npy_header((len(listing.files), size, size, 3))
    with atomic_write(path) as file:
        file.write(header)
        for entry, pixels, bits in _decoded(request, listing.files, scale):
            entries.append(entry)
            scaled.append(bits)
            file.write((blank if pixels is None else pixels).data)
        bit_depth = request.bit_depth or own_bit_depth(entries)
        rows = [row for row, entry in enumerate(entries) if entry.bits and scaled[row] != bit_depth]
        again = _decoded(request, [listing.files[row] for row in rows], _Scale(bit_depth))
        for row, (entry, pixels, _) in zip(rows, again, strict=True):
            entries[row] = entry
            file.seek(len(header) + row * blank.nbytes)
            file.write((blank if pixels is None else pixels).data)
    return entries, bit_depth


class _Scale:
    """How many bits 16-bit values are scaled by: a number, or as many as were seen so far."""

    def __init__(self, bit_depth: int | None):
        self._grows = bit_depth is None
        self.bits = bit_depth or LEAST_DEPTH

    def decode(self, content: bytes) -> tuple[Decoded, int]:
        """Decode a file, and say by how many bits it is scaled. Safe from many threads."""
        bits = self.bits
        found = decode_measured(content, bit_depth=bits)
        if self._grows and found.bits > bits:
            bits = found.bits
            self.bits = max(self.bits, bits)  # of two threads one may win: who has too few bits comes again
            found = decode_measured(content, bit_depth=bits)
        return found, bits


def _remove_older(request: _Request) -> None:
    """Delete what the cache keeps of the folder as it was before, in this size and by this resize mode.

    Who has it open keeps it; who is about to open it finds it whole or not at all.
    """
    for path in (path for place in request.places for path in _folder().glob(f"{place}*")):
        if not path.name.endswith(f"-{request.state}"):
            _remove(path)


def _remove(path: Path) -> None:
    """Delete a folder of the cache: it goes at once, and then its files."""
    with contextlib.suppress(OSError):
        grave = Path(tempfile.mkdtemp(dir=path.parent, prefix=".", suffix=TEMPORARY_SUFFIX))
        path.rename(grave / path.name)
        shutil.rmtree(grave, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    """Delete what killed processes left here half-decoded, a day ago or more: nobody fills it any longer."""
    for path in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        if time.time() - path.stat().st_mtime > _ABANDONED:
            shutil.rmtree(path, ignore_errors=True)


def _decoded(request: _Request, files: Sequence[File], scale: _Scale) -> Iterator[tuple[Entry, np.ndarray | None, int]]:
    """Decode files in order, on all cores (Pillow works without Python's lock), with the bits each is scaled by."""

    def work(file: File) -> tuple[Entry, np.ndarray | None, int]:
        content = b""
        try:
            content = read_file(file.path)
            (pixels, bits), scaled = scale.decode(content)
        except ImageError as error:
            kind = sniff(content)
            meant = request.listing.labels is not None or file.path.suffix.casefold() in IMAGE_SUFFIXES
            bad = kind is not None or meant
            return Entry(kind=kind, reason=str(error), bad=bad), None, 0
        digest, kind = hashlib.sha256(content).hexdigest(), sniff(content)
        entry = Entry(digest, kind, bits=bits, frames=count_frames(content, kind))
        return entry, resize_pixels(pixels, request.size, request.resize), scaled

    if not files:
        return
    with progress("reading images", len(files)) as bar, ThreadPoolExecutor(cores()) as pool:
        for begin in range(0, len(files), _BATCH):
            batch = files[begin : begin + _BATCH]
            yield from pool.map(work, batch)
            bar(len(batch))


def _open_kept(request: _Request, path: Path) -> ImageFolder | None:
    """What lies at `path`; None where nothing does, or where it is damaged, which is said, and it is removed."""
    shape = (len(request.listing.files), request.size, request.size, 3)
    try:
        index = parse_object((path / "index.json").read_bytes())
        if sha256(path / "images.npy") != index["sha256"]:
            raise ValueError("images.npy is not what was written")
        entries = [Entry(**entry) for entry in index["entries"]]
        images = open_images(path / "images.npy", shape)
        return ImageFolder(request.listing, entries, images, request.resize, index["bit_depth"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        if path.is_dir():
            log_info(f"{path} is damaged ({error}): reading the folder again")
            _remove(path)
        return None
