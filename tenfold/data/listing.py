"""The names in a folder of images → classes, splits and files. No image is decoded.

One subfolder is one class, below the folders of train, val and test images where those are there. What is never data
(`ignored`) is left out; links are followed, each folder once. What is odd is noted as a `Issue`, and its owner
decides.
"""

import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from tenfold.console import plural
from tenfold.data.ignored import IMAGE_SUFFIXES, holds_image, is_hidden, is_output, is_own, own_names
from tenfold.data.splits import (
    annotations,
    choose_splits,
    explain_classes,
    holds_folders,
    inner_split,
    is_unlabelled,
    parse_split,
    repeats,
    untrained_splits,
)
from tenfold.errors import DataError

MOST_CLASSES = 1000
SPLITS: tuple[str, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Issue:
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

    name: below the folder, with `/`, as text. split: train, val, test, or "" where the classes lie in the root. group:
    of files that belong in one split, "" for none. weight: factor of its loss in training.
    """

    path: Path
    name: str
    split: str
    label: int
    group: str = ""
    weight: float = 1.0


@dataclass(frozen=True)
class LabelFile:
    """The table that names the images and their classes, where folders do not.

    columns: what its columns are called where not as usual, as `--label-columns` takes it.
    """

    path: Path
    columns: str = ""


@dataclass
class Listing:
    """What names alone tell of a folder; `issues` is filled on the way.

    labels: the label file that the classes are from, None where they are the folder's; labels_sha256: its content.
    """

    root: Path
    classes: tuple[str, ...] = ()
    files: list[File] = field(default_factory=list)
    issues: list[Issue] = field(default_factory=list)
    labels: LabelFile | None = None
    labels_sha256: str = ""

    def __str__(self) -> str:
        """Where its images are named, for messages."""
        return str(self.labels.path if self.labels else self.root)


def natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Key that sorts `image2` before `image10`, without regard to case first; the same on every system."""
    parts = re.split(r"(\d+)", name.casefold())
    return [_number(part) if part.isdecimal() else (-1, part) for part in parts], name


def _number(digits: str) -> tuple[int, str]:
    """Sorts as the number does, of any length: by how many digits it has, then by these."""
    plain = "".join(str(unicodedata.decimal(digit)) for digit in digits).lstrip("0")
    return len(plain), plain


def shown_name(name: str) -> str:
    """A file's name as text that can be written anywhere, also where it is not UTF-8."""
    return os.fsencode(name).decode(errors="backslashreplace")


def list_folder(root: Path, known: Collection[str] = ()) -> Listing:
    """List a folder's classes and files. known: the classes of a model that is there already.

    With them, one class is enough, folders of these names are classes whatever lies in them, and a folder of another
    name that holds no image is left out. Without them, fewer than two classes are an error.

    Raises `DataError` where `root` is no folder that can be read.
    """
    listing = Listing(root)
    if not os.access(root, os.R_OK | os.X_OK) or not root.is_dir():
        raise DataError(f"{root} is not a folder that can be read")
    walk = _Walk(listing)
    tops = walk.class_entries(root)
    splits = {} if _are_classes(tops[0], known) else _find_splits(walk, tops[0])
    by_split = {split: _class_folders(walk, *walk.class_entries(top)) for split, top in splits.items()}
    by_split = by_split or {"": _class_folders(walk, *tops)}
    if known:
        by_split = {split: _without_empty(walk, folders, known) for split, folders in by_split.items()}
    listing.classes = tuple(sorted(by_split.get("train", by_split.get("", {})), key=natural))
    for split, folders in by_split.items():
        _add_files(walk, split, folders)
    _check_classes(walk, splits.get("train", root), by_split.get("train", by_split.get("", {})), known)
    return listing


def _are_classes(folders: Sequence[Path], known: Collection[str]) -> bool:
    """Whether folders are those of known classes, whatever they are called, beside others without an image at most."""
    named = {path for path in folders if composed(path.name) in known}
    return bool(named) and not any(holds_image(path) for path in folders if path not in named)


class _Walk:
    """Reads folders, each once wherever links lead, in natural order, and notes what it leaves out."""

    def __init__(self, listing: Listing):
        self.listing = listing
        self._seen: set[tuple[int, int]] = set()

    def name(self, path: Path) -> str:
        return shown_name(path.relative_to(self.listing.root).as_posix())

    def note(self, kind: str, severity: str, what: str, do: str, paths: Iterable[Path] = ()) -> None:
        named = tuple(self.name(path) for path in paths)
        self.listing.issues.append(Issue(kind, severity, what, do, named))

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
        shown = [path for path in paths if not is_hidden(path.name)]
        for path in paths:
            if is_hidden(path.name) and path.is_dir():
                self.note("hidden folder", "warning", f"{self.name(path)} is hidden", "left out", [path])
        folders, own = {path for path in shown if path.is_dir()}, own_names(folder)
        shown = self._without_own(shown, {p for p in shown if p.name in own or (p in folders and is_output(p))})
        self._note_collisions(shown)
        return [path for path in shown if path in folders], [path for path in shown if path not in folders]

    def class_entries(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """As `entries`, without folders that hold nothing but tenfold's output, such as `runs/`."""
        folders, files = self.entries(folder)
        return self._without_own(folders, {path for path in folders if is_own(path)}), files

    def _without_own(self, paths: Sequence[Path], own: Set[Path]) -> list[Path]:
        for path in (path for path in paths if path in own):
            self.note("own output", "warning", f"{self.name(path)} was made by tenfold", "left out", [path])
        return [path for path in paths if path not in own]

    def files(self, folder: Path) -> Iterator[Path]:
        """All files in `folder` and below."""
        folders, files = self.entries(folder)
        yield from files
        for inner in folders:
            yield from self.files(inner)

    def _note_collisions(self, paths: Sequence[Path]) -> None:
        alike: dict[str, list[Path]] = {}
        for path in paths:
            alike.setdefault(composed(path.name).casefold(), []).append(path)
        for group in alike.values():
            if len(group) > 1:
                what = f"{' and '.join(self.name(path) for path in group)} are one name on other systems"
                self.note("colliding names", "warning", what, "rename all but one", group)


def composed(name: str) -> str:
    """The name in the composed Unicode form: macOS decomposes, other systems do not."""
    return unicodedata.normalize("NFC", name)


def image_names(root: Path) -> Iterator[Path]:
    """All files below `root` whose names are those of images, without what is never data."""
    for path in _Walk(Listing(root)).files(root):
        if path.suffix.casefold() in IMAGE_SUFFIXES:
            yield path


def _find_splits(walk: _Walk, folders: Sequence[Path]) -> dict[str, Path]:
    """The folders of train, val and test images by split, or {} where the classes themselves lie in the root."""
    named = choose_splits(folders)
    if not named:
        _note_untrained(walk, untrained_splits(folders))
        return {}
    by_split: dict[str, list[Path]] = {}
    for path, split in named.items():
        by_split.setdefault(split, []).append(path)
    for paths in by_split.values():
        if len(paths) > 1:
            what = f"of {' and '.join(map(walk.name, paths))} two are the same split"
            walk.note("splits", "error", what, "merge them", paths)
    tops = {split: inner_split(by_split[split][0]) for split in SPLITS if split in by_split}
    labelled = {split: top for split, top in tops.items() if not is_unlabelled(top, tops["train"])}
    kept = {path for split in labelled for path in by_split[split]}
    for stray in folders:
        if stray not in kept:
            _note_stray(walk, stray, by_split["train"][0])
    return labelled


def _note_untrained(walk: _Walk, splits: Sequence[Path]) -> None:
    if splits:
        hold, them = ("hold", "them") if len(splits) > 1 else ("holds", "it")
        what = f"{' and '.join(map(walk.name, splits))} {hold} folders, but there is no train/ beside {them}"
        walk.note("splits", "error", what, "move the classes to train on into train/", splits)


def _note_stray(walk: _Walk, stray: Path, train: Path) -> None:
    if parse_split(stray.name) and (not holds_folders(stray) or is_unlabelled(stray, train)):
        what = f"{walk.name(stray)} holds no class folders"
        source = f", as {listed.name} says" if (listed := annotations(stray)) else ""
        do = f"left out; sort its images into folders named as the classes{source}, "
        do += "or have them answered by tenfold predict"
        walk.note("unlabelled split", "warning", what, do, [stray])
    else:
        what, name = f"{walk.name(stray)} lies beside {walk.name(train)}/", walk.name(train)
        walk.note("stray folder", "warning", what, f"left out; move it into {name}/ if it is a class", [stray])


def _class_folders(walk: _Walk, folders: Sequence[Path], files: Sequence[Path]) -> dict[str, Path]:
    """Class folders by class name."""
    outside = [path for path in files if path.suffix.casefold() in IMAGE_SUFFIXES]
    if outside:
        what = f"{walk.name(outside[0])} lies outside any class"
        if len(outside) > 1:
            what = f"{len(outside):,} images lie outside any class, as {walk.name(outside[0])} does"
        walk.note("outside", "warning", what, "left out; move them into the folder of their class", outside)
    found: dict[str, Path] = {}
    for folder in folders:
        name = composed(folder.name)
        if not _is_text(name):
            what = f"the name of {walk.name(folder)} is no text in UTF-8"
            walk.note("class names", "error", what, "rename it: it would name a class", [folder])
        elif name in found:
            what = f"{walk.name(folder)} and its neighbour are one name in two Unicode forms"
            walk.note("class names", "error", what, "merge the two", [found[name], folder])
        else:
            found[name] = folder
    return found


def _without_empty(walk: _Walk, folders: Mapping[str, Path], known: Collection[str]) -> dict[str, Path]:
    """The class folders without those that a model does not know and that hold no image."""
    empty = [path for name, path in folders.items() if name not in known and not holds_image(path)]
    for path in empty:
        what = f"{walk.name(path)} holds no image and is no class of the model"
        walk.note("stray folder", "warning", what, "left out", [path])
    return {name: path for name, path in folders.items() if path not in empty}


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


def _check_classes(walk: _Walk, top: Path, folders: Mapping[str, Path], known: Collection[str]) -> None:
    """Note what keeps the folders in `top` from being classes."""
    count, fewest = len(folders), 1 if known else 2
    explained = None if known and folders.keys() & set(known) else explain_classes(top, folders)
    if explained:
        what, do = map(shown_name, explained)
        do = do if top == walk.listing.root else f"make one folder for each class in {walk.name(top)}/"
        walk.note("layout", "error", what, do, folders.values())
    elif not fewest <= count <= MOST_CLASSES:
        made = ", and was made by tenfold" if is_own(top) else ""
        what = f"{walk.listing.root} has {plural(count, 'class folder')} instead of {fewest} to {MOST_CLASSES:,}{made}"
        walk.note("classes", "error", what, "make one subfolder for each class")
    elif not known and (inner := repeats(folders)):
        what = f"all classes hold the same folders, as {inner[0]} and {inner[1]}"
        walk.note("same folders", "warning", what, "if those are the classes, turn the two levels round", ())
