"""A folder of images as a data set: one subfolder a class, below `train/`, `val/` and `test/` where those are there.

What was decoded once is kept in the cache as one memory-mapped array with an index, under a name made of everything
that decides its pixels: the files' names, sizes and times, the input size, the resize mode, the decoder. A folder that
changes in any of these is read again. The folder itself is only read.

Legend: N image files, S×S pixels, K classes.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import __version__ as pillow_version

from tenfold.console import progress, remark
from tenfold.data.cache import home, map_array, npy_header, writing_home
from tenfold.data.dataset import Dataset, Origin, Split
from tenfold.data.image import RESIZES, decode, read_file, sniff
from tenfold.data.listing import PICTURES, File, Finding, Listing, list_folder, shown_name
from tenfold.errors import DataError, ImageError, UsageError
from tenfold.files import TEMPORARY_SUFFIX, atomic_write, parse_object, sha256, storage_errors, umask, write_text
from tenfold.machine import cores

TEST_SHARE = 0.2
"""Of each class, drawn for testing where the folder has no test images of its own."""
IMBALANCE = 5
"""A largest class so many times the smallest is worth a word."""
MOST_BAD = 0.01
"""Share of the image files that may be skipped because they cannot be read."""
_FORMAT = 1
_ABANDONED = 24 * 3600  # seconds after which nobody is decoding into a folder any longer
_BATCH = 256  # files decoded at a time, so that memory stays bounded


@dataclass(frozen=True)
class Entry:
    """What reading told of a `File`: an image of some format with the SHA-256 of its bytes, or why it is none.

    kind: the format its content has, if any. bad: whether its name promises an image.
    """

    sha256: str = ""
    kind: str | None = None
    reason: str = ""
    bad: bool = False


@dataclass(frozen=True)
class Pictures:
    """A folder that was read: a row of `images` (uint8 N×S×S×3, memory-mapped) and of `entries` for every file."""

    listing: Listing
    entries: list[Entry]
    images: np.ndarray
    resize: str

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


# --- pixels -----------------------------------------------------------------------------------------------------------


def read_pictures(listing: Listing, size: int, resize: str) -> Pictures:
    """Decode every file of a listing, or take from the cache what was decoded before.

    Raises `StorageError` where the cache cannot be written.
    """
    if not listing.files:
        return Pictures(listing, [], np.empty((0, size, size, 3), np.uint8), resize)
    place = _place(listing.root) + f"{size}-{resize}-"
    path = _folder() / f"{place}{_digest([_FORMAT, pillow_version, *_stamps(listing)])}"
    if not path.is_dir():
        _decode_all(listing, size, resize, path)
        for stale in _folder().glob(f"{place}*"):
            if stale != path:
                shutil.rmtree(stale, ignore_errors=True)  # the folder as it was before
    try:
        return _open_cached(listing, size, resize, path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        remark(f"{path} is damaged ({error}): reading the folder again")
        shutil.rmtree(path, ignore_errors=True)
        _decode_all(listing, size, resize, path)
        return _open_cached(listing, size, resize, path)


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
def _decode_all(listing: Listing, size: int, resize: str, path: Path) -> None:
    """Fill the cache: to a temporary folder that is renamed when it is whole."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path.parent)
        draft = Path(tempfile.mkdtemp(dir=path.parent, prefix=".", suffix=TEMPORARY_SUFFIX))
    try:
        entries = []
        with atomic_write(draft / "images.npy") as file:
            file.write(npy_header((len(listing.files), size, size, 3)))
            for entry, pixels in _decoded(listing, size, resize):
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


def _decoded(listing: Listing, size: int, resize: str) -> Iterator[tuple[Entry, np.ndarray]]:
    """Decode the files in order, on all cores: Pillow works without Python's lock."""
    blank = np.zeros((size, size, 3), np.uint8)

    def work(file: File) -> tuple[Entry, np.ndarray]:
        content = b""
        try:
            content = read_file(file.path)
            pixels = decode(content, size, resize)
        except ImageError as error:
            kind = sniff(content)
            bad = kind is not None or file.path.suffix.casefold() in PICTURES
            return Entry(kind=kind, reason=str(error), bad=bad), blank
        return Entry(hashlib.sha256(content).hexdigest(), sniff(content)), pixels

    with progress("reading images", len(listing.files)) as bar, ThreadPoolExecutor(cores()) as pool:
        for begin in range(0, len(listing.files), _BATCH):
            batch = listing.files[begin : begin + _BATCH]
            yield from pool.map(work, batch)
            bar(len(batch))


def _open_cached(listing: Listing, size: int, resize: str, path: Path) -> Pictures:
    index = parse_object((path / "index.json").read_bytes())
    if sha256(path / "images.npy") != index["sha256"]:
        raise ValueError("images.npy is not what was written")
    entries = [Entry(**entry) for entry in index["entries"]]
    images = map_array(path / "images.npy", (len(listing.files), size, size, 3))
    return Pictures(listing, entries, images, resize)


# --- a data set -------------------------------------------------------------------------------------------------------


def load_folder(root: Path, size: int = 32, resize: str = "squash", seed: int = 0) -> Dataset:
    """Read a folder of images as a data set of `size`×`size` pixels: `read_folder`, then `make_dataset`."""
    return make_dataset(read_folder(root, size, resize), seed)


def read_folder(root: Path, size: int, resize: str) -> Pictures:
    """List and decode a folder, and say what is skipped.

    Raises `DataError` for what `tenfold data check` calls an error, `UsageError`, `StorageError`.
    """
    if resize not in RESIZES:
        raise UsageError(f"no resize mode is named {resize!r}: choose {', '.join(RESIZES)}")
    listing = list_folder(root)
    _refuse(listing.findings)
    pictures = read_pictures(listing, size, resize)
    findings = examine_entries(pictures)
    _refuse(findings)
    for finding in findings:
        if finding.severity == "skipped":
            remark(f"skipped {finding.what}")
    return pictures


def make_dataset(pictures: Pictures, seed: int, test_share: float = TEST_SHARE) -> Dataset:
    """Divide a folder's images.

    Without `test/`, what `val/` holds is scored on; without both, `test_share` of each class, drawn by `seed`. Drawing
    goes by content, so that the copies of an image in a class stay together and a file added moves one other at most.
    `val/` beside `test/` is the end of the training images, `Dataset.val_size` of them. Raises `DataError` where no
    test image is left.
    """
    listing, splits = pictures.listing, assign_splits(pictures, seed, test_share)
    _say_counts(pictures, splits)
    train = _split(pictures, [*splits["train"], *splits["val"]])
    origin = Origin(str(listing.root.resolve()), pictures.sha256, pictures.images.shape[1], pictures.resize)
    test = _split(pictures, splits["test"])
    return Dataset(folder_name(listing.root), listing.classes, train, test, len(splits["val"]), origin)


def folder_name(root: Path) -> str:
    """What a folder's data set is called: no path, since it goes into files that are passed on."""
    return shown_name(root.resolve().name) + "/"


def _refuse(findings: Iterable[Finding]) -> None:
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more: tenfold data check lists them)" if len(errors) > 1 else ""
        raise DataError(f"{errors[0]}{more}")


def examine_entries(pictures: Pictures) -> list[Finding]:
    """What reading the files told: bad ones, those that are no images, classes without any image."""
    files, entries = pictures.listing.files, pictures.entries
    bad = [row for row, entry in enumerate(entries) if entry.bad]
    images = len(pictures.good()) + len(bad)
    severity = "error" if len(bad) > MOST_BAD * images else "skipped"
    found = []
    if severity == "error":
        what = f"{len(bad):,} of {images:,} images cannot be read, more than {MOST_BAD:.0%}"
        found.append(
            Finding("too many bad images", "error", f"{what} ({_first_bad(pictures, bad)})", "mend or remove them")
        )
    for row in bad:
        what = f"{files[row].name}: {entries[row].reason}"
        found.append(Finding("bad image", "skipped", what, "mend or remove it", (files[row].name,)))
    for row, entry in enumerate(entries):
        if entry.reason and not entry.bad:
            name = files[row].name
            found.append(Finding("no image", "warning", f"{name} is no image", "left out", (name,)))
    return found + _empty_classes(pictures)


def _first_bad(pictures: Pictures, bad: Sequence[int], most: int = 5) -> str:
    named = [f"{pictures.listing.files[row].name}: {pictures.entries[row].reason}" for row in bad[:most]]
    return "; ".join(named) + ("; …" if len(bad) > most else "")


def _empty_classes(pictures: Pictures) -> list[Finding]:
    listing = pictures.listing
    files = [listing.files[row] for row in pictures.good()]
    trained = {file.label for file in files if file.split in ("", "train")}
    what = "the class folder {} holds no image"
    return [
        Finding("empty class", "error", what.format(name), "add images to it, or remove it", (name,))
        for label, name in enumerate(listing.classes)
        if label not in trained
    ]


def assign_splits(pictures: Pictures, seed: int, test_share: float) -> dict[str, list[int]]:
    """Rows of the train, val and test images, in an order that mixes the classes and depends on content only."""
    files = pictures.listing.files
    rows = sorted(pictures.good(), key=lambda row: _order(f"{pictures.entries[row].sha256}/{files[row].name}"))
    splits: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for row in rows:
        splits[files[row].split or "train"].append(row)
    if not splits["test"]:
        splits["test"], splits["val"] = splits["val"], []
    if not splits["test"]:
        drawn = _draw_test(pictures, splits["train"], seed, test_share)
        splits["train"], splits["test"] = (
            [r for r in splits["train"] if r not in drawn],
            [r for r in rows if r in drawn],
        )
    if not splits["test"]:
        raise DataError(f"{pictures.listing.root}: no class has two different images, so none is left to test on")
    return splits


def _order(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _draw_test(pictures: Pictures, rows: Sequence[int], seed: int, share: float) -> set[int]:
    """Draw a share of each class's images; of bytes that occur more than once, all or none."""
    by_class: dict[int, list[tuple[bytes, int]]] = {}
    for row in rows:
        key = _order(f"{seed}/{pictures.entries[row].sha256}")
        by_class.setdefault(pictures.listing.files[row].label, []).append((key, row))
    drawn: set[int] = set()
    for keyed in by_class.values():
        last = sorted(keyed)[max(1, round(share * len(keyed))) - 1][0]
        chosen = {row for key, row in keyed if key <= last}
        drawn |= chosen if len(chosen) < len(keyed) or share == 1 else set()  # a class needs an image to train on
    return drawn


def _split(pictures: Pictures, rows: Sequence[int]) -> Split:
    files = [pictures.listing.files[row] for row in rows]
    labels = np.array([file.label for file in files], np.uint16)
    return Split(pictures.images[list(rows)], labels, np.array([file.name for file in files], object))


def _say_counts(pictures: Pictures, splits: dict[str, list[int]]) -> None:
    listing = pictures.listing
    counts = Counter(listing.files[row].label for rows in splits.values() for row in rows)
    least, most = (choose(counts, key=lambda label: (counts[label], label)) for choose in (min, max))
    images = ", ".join(f"{len(rows):,} {split}" for split, rows in splits.items() if rows)
    ends = [f"{counts[label]:,} ({listing.classes[label]})" for label in (least, most)]
    a_class = f"from {ends[0]} to {ends[1]} a class" if counts[least] < counts[most] else f"{counts[most]:,} a class"
    remark(f"{folder_name(listing.root)}: {len(counts):,} classes; {images} images, {a_class}")
    if counts[most] >= IMBALANCE * counts[least]:
        remark("the classes are imbalanced: trust the scores by class more than the accuracy")
