"""The names in a folder of images → classes, splits and files. No file is opened.

One subfolder is one class, below `train/`, `val/` and `test/` where those are there. What is hidden is left out; links
are followed, each folder once. What is odd is noted as a `Finding`, and its owner decides.
"""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tenfold.errors import DataError

MOST_CLASSES = 1000
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_LITTER = {"__macosx", "thumbs.db", "desktop.ini", "@eadir"}  # what systems leave behind

SUFFIXES = {
    "PNG": {".png", ".apng"},
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "WEBP": {".webp"},
    "GIF": {".gif"},
    "BMP": {".bmp", ".dib"},
    "TIFF": {".tif", ".tiff"},
}
_UNREAD = """
.heic .heif .avif .jxl .jp2 .j2k .svg .ico .psd .xcf .tga .ppm .pgm .pbm .dng .raw .cr2 .cr3 .nef .arw
"""
PICTURES = {suffix for suffixes in SUFFIXES.values() for suffix in suffixes} | set(_UNREAD.split())
"""Endings by which a user means a picture: such a file is bad where it cannot be read; any other is left alone."""


@dataclass(frozen=True)
class Finding:
    """Something about a folder that its owner should know.

    severity: `error` keeps it from being trained on, `skipped` leaves files out, `warning` changes nothing.
    do: what to do about it. paths: below the folder.
    """

    kind: str
    severity: str
    what: str
    do: str
    paths: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.what}: {self.do}"


@dataclass(frozen=True)
class File:
    """A file that may be an image.

    name: below the folder, with `/`, as text. split: train, val, test, or "" where the classes lie in the root.
    """

    path: Path
    name: str
    split: str
    label: int


@dataclass
class Listing:
    """What names alone tell of a folder; `findings` is filled on the way."""

    root: Path
    classes: tuple[str, ...] = ()
    files: list[File] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Key that sorts `image2` before `image10`, without regard to case first; the same on every system."""
    parts = re.split(r"(\d+)", name.casefold())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], name


def shown_name(name: str) -> str:
    """A file's name as text that can be written anywhere, also where it is not UTF-8."""
    return os.fsencode(name).decode(errors="backslashreplace")


def list_folder(root: Path, fewest_classes: int = 2) -> Listing:
    """List a folder's classes and files. Fewer classes than `fewest_classes` are an error.

    Raises `DataError` where `root` is no folder that can be read.
    """
    listing = Listing(root)
    if not os.access(root, os.R_OK | os.X_OK) or not root.is_dir():
        raise DataError(f"{root} is not a folder that can be read")
    walk = _Walk(listing)
    tops = walk.entries(root)
    splits = _find_splits(walk, tops[0])
    by_split = {split: _class_folders(walk, top, *walk.entries(top)) for split, top in splits.items()}
    by_split = by_split or {"": _class_folders(walk, root, *tops)}
    listing.classes = tuple(sorted(by_split.get("train", by_split.get("", {})), key=natural))
    for split, folders in by_split.items():
        _add_files(walk, split, folders)
    _check_classes(listing, fewest_classes)
    return listing


class _Walk:
    """Reads folders, each once wherever links lead, in natural order, and notes what it leaves out."""

    def __init__(self, listing: Listing):
        self.listing = listing
        self._seen: set[tuple[int, int]] = set()

    def name(self, path: Path) -> str:
        return shown_name(path.relative_to(self.listing.root).as_posix())

    def note(self, kind: str, severity: str, what: str, do: str, paths: Iterable[Path] = ()) -> None:
        named = tuple(self.name(path) for path in paths)
        self.listing.findings.append(Finding(kind, severity, what, do, named))

    def entries(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """Folders and files in `folder`, without what is hidden; none where it was read before."""
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in self._seen:
                what = f"{self.name(folder)} is a link to a folder that is read already"
                self.note("link", "warning", what, "left out; remove the link", [folder])
                return [], []
            self._seen.add((status.st_dev, status.st_ino))
            paths = sorted(folder.iterdir(), key=lambda path: natural(path.name))
        except OSError as error:
            what = f"{self.name(folder)} cannot be read ({error.strerror})"
            self.note("unreadable folder", "error", what, "mend its permissions or remove it", [folder])
            return [], []
        shown = [path for path in paths if not _is_hidden(path.name)]
        for path in paths:
            if _is_hidden(path.name) and path.is_dir():
                self.note("hidden folder", "warning", f"{self.name(path)} is hidden", "left out", [path])
        self._note_collisions(shown)
        folders = {path: None for path in shown if path.is_dir()}
        files = [path for path in shown if path not in folders]
        return [path for path in folders if not (path / "recipe.json").is_file()], files  # nor runs made in here

    def files(self, folder: Path) -> Iterator[Path]:
        """All files in `folder` and below."""
        folders, files = self.entries(folder)
        yield from files
        for inner in folders:
            yield from self.files(inner)

    def _note_collisions(self, paths: Sequence[Path]) -> None:
        alike: dict[str, list[Path]] = {}
        for path in paths:
            alike.setdefault(_same_text(path.name).casefold(), []).append(path)
        for group in alike.values():
            if len(group) > 1:
                what = f"{' and '.join(self.name(path) for path in group)} are one name on other systems"
                self.note("colliding names", "warning", what, "rename all but one", group)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.casefold() in _LITTER


def _same_text(name: str) -> str:
    """The name in the composed Unicode form: macOS decomposes, other systems do not."""
    return unicodedata.normalize("NFC", name)


def _find_splits(walk: _Walk, folders: Sequence[Path]) -> dict[str, Path]:
    """The folders of train, val and test images by split, or {} where the classes themselves lie in the root.

    `train` is a split where it holds folders: beside other vehicles it may be a class.
    """
    named = [path for path in folders if path.name.casefold() in _SPLITS and _holds_folders(path)]
    found = {_SPLITS[path.name.casefold()]: path for path in named}
    names = " and ".join(walk.name(path) for path in named)
    if len(found) < len(named):
        walk.note("splits", "error", f"of {names} two are the same split", "merge them", named)
    if "train" not in found:
        if named:
            what = f"{names} holds folders, but there is no train/ beside it"
            walk.note("splits", "error", what, "move the classes to train on into train/", named)
        return {}
    for stray in sorted(set(folders) - set(named)):
        what = f"{walk.name(stray)} lies beside train/"
        walk.note("stray folder", "warning", what, "left out; move it into train/ if it is a class", [stray])
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def _holds_folders(path: Path) -> bool:
    try:
        return any(inner.is_dir() and not _is_hidden(inner.name) for inner in path.iterdir())
    except OSError:
        return False


def _class_folders(walk: _Walk, top: Path, folders: Sequence[Path], files: Sequence[Path]) -> dict[str, Path]:
    """Class folders in `top` by class name."""
    outside = [path for path in files if path.suffix.casefold() in PICTURES]
    if outside:
        what = f"{len(outside):,} images lie outside any class, as {walk.name(outside[0])} does"
        walk.note("outside", "warning", what, "left out; move them into the folder of their class", outside)
    found: dict[str, Path] = {}
    for folder in folders:
        name = _same_text(folder.name)
        if not _is_text(name):
            what = f"the name of {walk.name(folder)} is no text in UTF-8"
            walk.note("class names", "error", what, "rename it: it would name a class", [folder])
        elif name in found:
            what = f"{walk.name(folder)} and its neighbour are one name in two Unicode forms"
            walk.note("class names", "error", what, "merge the two", [found[name], folder])
        else:
            found[name] = folder
    return found


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _add_files(walk: _Walk, split: str, folders: dict[str, Path]) -> None:
    listing = walk.listing
    labels = {name: label for label, name in enumerate(listing.classes)}
    for name, folder in sorted(folders.items(), key=lambda item: natural(item[0])):
        if name not in labels:
            what = f"{walk.name(folder)} is a class that train/ does not have"
            walk.note("unknown class", "error", what, "add it to train/ or remove it", [folder])
            continue
        files = walk.files(folder)
        listing.files.extend(File(path, walk.name(path), split, labels[name]) for path in files)


def _check_classes(listing: Listing, fewest: int) -> None:
    count = len(listing.classes)
    if not fewest <= count <= MOST_CLASSES:
        what = f"{listing.root} has {count:,} class folders instead of {fewest} to {MOST_CLASSES:,}"
        listing.findings.append(Finding("classes", "error", what, "make one subfolder for each class"))
