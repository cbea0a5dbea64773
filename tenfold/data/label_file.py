"""A label file → the listing of its images: a row an image, with its class and perhaps its split, group and weight.

It stands for the names of folders; all that follows (decoding, cache, checks, splits) is the same. What is wrong is
noted as an `Issue` with its line, and its owner decides.
"""

import functools
import math
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tenfold.console import plural
from tenfold.data.listing import (
    MOST_CLASSES,
    File,
    Issue,
    LabelFile,
    Listing,
    composed,
    image_names,
    natural,
    shown_name,
)
from tenfold.data.splits import parse_split
from tenfold.data.table import (
    LABEL_COLUMNS,
    SPLIT_HEADER,
    Row,
    Table,
    find_columns,
    parse_columns,
    path_forms,
    read_table,
)
from tenfold.errors import DataError

USUAL = {role: (role,) for role in LABEL_COLUMNS} | {"label": ("label", "class")}
"""Names that columns have; `split.csv` of a run calls labels classes."""


@dataclass(frozen=True)
class _Line:
    """A row that can be used, and the class that it names."""

    line: int
    label: str
    file: File


def list_labels(root: Path, labels: LabelFile, known: Collection[str] = ()) -> Listing:
    """List the images that a label file names. root: the folder that its paths begin in.

    known: the classes of a model that is there already: then one class is enough, and none needs training images.
    Raises `DataError` where the file cannot be read or lacks a column, `UsageError` for wrong column names.
    """
    named = parse_columns(labels.columns)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder that can be read: name the folder that the paths begin in with --data")
    table = read_table(labels.path, SPLIT_HEADER)
    columns = find_columns(table, named, USUAL, ("path", "label"), "--label-columns")
    listing = Listing(Path(os.path.abspath(root)), labels=labels, labels_sha256=table.sha256)  # noqa: PTH100 (keeps links)
    lines = _Reader(listing, table, columns).lines()
    trained = {line.label for line in lines if known or line.file.split in ("", "train")}
    listing.classes = tuple(sorted(trained, key=natural))
    numbers = {name: number for number, name in enumerate(listing.classes)}
    files = [replace(line.file, label=numbers[line.label]) for line in lines if line.label in numbers]
    listing.files = sorted(files, key=lambda file: natural(file.name))  # by the same order, decoded images are reused
    listing.issues += [
        *_untrained_classes(table, lines, trained),
        *_class_count(table, listing.classes, known),
        *([] if known else _no_weight(table, listing)),
        *_unlisted(listing),
    ]
    return listing


class _Reader:
    """Reads the rows of a label file, and notes in its listing what is wrong with them."""

    def __init__(self, listing: Listing, table: Table, columns: dict[str, int]):
        self.listing, self.table = listing, table
        used = {role: place for role, place in columns.items() if role in ("path", "label") or self._is_used(place)}
        self.columns = used
        self.root = str(listing.root)
        self._missing = 0

    def _is_used(self, place: int) -> bool:
        """Whether a column has a value anywhere: one that is empty is as good as none."""
        return any(place < len(row.cells) and row.cells[place] for row in self.table.rows)

    def lines(self) -> list[_Line]:
        """The rows that can be used, each image once."""
        found: dict[str, _Line] = {}
        for row in self.table.rows:
            line = self._line(row)
            if line and not self._is_repeated(line, found.get(line.file.name)):
                found[line.file.name] = line
        self._check_groups(found.values())
        return [*found.values()]

    def note(self, kind: str, what: str, do: str, *lines: int, severity: str = "error", name: str = "") -> None:
        what = f"{self.table.where(*lines)}: {what}"
        self.listing.issues.append(Issue(kind, severity, what, do, (name,) if name else ()))

    def _line(self, row: Row) -> _Line | None:
        """A row with its image's file, label 0; None where something is wrong, which is noted."""
        width = len(self.table.columns)
        if len(row.cells) < width or any(row.cells[width:]):
            what = f"{len(row.cells)} cells instead of {width}"
            do = "add what is missing" if len(row.cells) < width else "put names with a separator in them in quotes"
            self.note("cells", what, do, row.line)
            return None
        cells = {role: row.cells[place] for role, place in self.columns.items()}
        found, label = self._find(row.line, cells["path"]), self._label(row.line, cells)
        split, weight = self._split(row.line, cells), self._weight(row.line, cells)
        if found is None or label is None or split is None or weight is None:
            return None
        path, name = found
        return _Line(row.line, label, File(Path(path), name, split, 0, cells.get("group", ""), weight))

    def _find(self, line: int, text: str) -> tuple[str, str] | None:
        """An image's path, and what it is called; None where there is no file, which is noted."""
        if not text.strip():
            self.note("empty path", "the path is empty", "name an image, or remove the line", line)
            return None
        for form in path_forms(text):
            path = os.path.normpath(os.path.join(self.root, form))  # noqa: PTH118 (a Path takes five times as long)
            if _is_file(path):
                return path, self._name(path, form)
        do = "mend the path or remove the line" if self._missing else self._how_to_find(text)
        self._missing += 1
        self.note("missing image", f"there is no file {shown_name(text)}", do, line, name=shown_name(text))
        return None

    def _how_to_find(self, text: str) -> str:
        if os.path.isabs(text):  # noqa: PTH117
            return "mend the path or remove the line"
        return f"relative paths begin in {self.listing.root}; name another folder with --data, or mend the path"

    def _name(self, path: str, form: str) -> str:
        """What an image is called: its path below the root; of one beside the root, as it is written."""
        top = self.root if self.root.endswith(os.sep) else f"{self.root}{os.sep}"
        if path.startswith(top):
            name = path.removeprefix(top)
        else:
            name = path if os.path.isabs(form) else os.path.normpath(form)  # noqa: PTH117
        return shown_name(name.replace(os.sep, "/"))

    def _label(self, line: int, cells: dict[str, str]) -> str | None:
        if not cells["label"]:
            self.note("empty label", f"{cells['path']} has no label", "name its class, or remove the line", line)
        return composed(cells["label"]) or None

    def _split(self, line: int, cells: dict[str, str]) -> str | None:
        if "split" not in cells:
            return ""
        split = _split_named(cells["split"])
        if split is None:
            what = f"the split is {cells['split']!r}" if cells["split"] else "there is no split"
            self.note("unknown split", what, "write train, val or test, or leave the column out", line)
        return split

    def _weight(self, line: int, cells: dict[str, str]) -> float | None:
        if "weight" not in cells:
            return 1.0
        text = cells["weight"] if self.table.delimiter == "," else cells["weight"].replace(",", ".")
        try:
            weight = float(text)
        except ValueError:
            weight = math.nan
        if not 0 <= weight < math.inf:
            what = f"the weight is {cells['weight']!r}" if cells["weight"] else "there is no weight"
            self.note("weight", what, "write a number of 0 or more", line)
            return None
        return weight

    def _is_repeated(self, line: _Line, first: _Line | None) -> bool:
        """Whether the image was there before, which is noted."""
        if first is None:
            return False
        name, where = line.file.name, (first.line, line.line)
        if first.label != line.label:
            what = f"{name} is labelled {shown_name(first.label)} and {shown_name(line.label)}"
            self.note("two labels", what, "keep the line that is right", *where, name=name)
        elif first.file.split != line.file.split:
            what = f"{name} is in {first.file.split} and {line.file.split}"
            self.note("two splits", what, "keep one of the lines", *where, name=name)
        else:
            self.note("repeated", f"{name} is there twice", "the first counts", *where, severity="warning", name=name)
        return True

    def _check_groups(self, lines: Iterable[_Line]) -> None:
        """Note each group that is in two splits; where splits are drawn, there are none yet."""
        first: dict[str, _Line] = {}
        noted: set[str] = set()
        for line in lines:
            group, split = line.file.group, line.file.split
            before = first.setdefault(group, line) if group else line
            if before.file.split != split and group not in noted:
                noted.add(group)
                what = f"group {group!r} is in {before.file.split} and in {split}"
                self.note("group in two splits", what, "put all of it in one split", before.line, line.line)


def _is_file(path: str) -> bool:
    try:
        return os.path.isfile(path)  # noqa: PTH113
    except (OSError, ValueError):  # a name that no file can have
        return False


@functools.cache
def _split_named(text: str) -> str | None:
    parsed = parse_split(text)
    return parsed[1] if parsed and not parsed[0] else None


# --- what concerns all rows -------------------------------------------------------------------------------------------


def _untrained_classes(table: Table, lines: Iterable[_Line], trained: Collection[str]) -> Iterator[Issue]:
    untrained: dict[str, _Line] = {}
    for line in lines:
        if line.label not in trained:
            untrained.setdefault(line.label, line)
    for name, line in untrained.items():
        what = (
            f"{table.where(line.line)}: no training image is of class {shown_name(name)}, that this {line.file.split}"
        )
        do = "put some of its images into train, or remove the class"
        yield Issue("empty class", "error", f"{what} image is of", do, (line.file.name,))


def _class_count(table: Table, classes: Collection[str], known: Collection[str]) -> Iterator[Issue]:
    fewest = 1 if known else 2
    if not fewest <= len(classes) <= MOST_CLASSES:
        what = (
            f"{table.path.name} has training images of {plural(len(classes), 'class')} "
            f"instead of {fewest} to {MOST_CLASSES:,}"
        )
        yield Issue("classes", "error", what, "give each image its class in the column of labels")


def _no_weight(table: Table, listing: Listing) -> Iterator[Issue]:
    """Note classes of which no training image counts; where all are such, that."""
    training = [file for file in listing.files if file.split in ("", "train")]
    counting = {file.label for file in training if file.weight}
    if training and not counting:
        what = f"{table.path.name}: every training image has the weight 0"
        yield Issue("weight", "error", what, "give some of them a weight above 0")
        return
    for label in sorted({file.label for file in training} - counting):
        what = f"{table.path.name}: every training image of class {shown_name(listing.classes[label])} has the weight 0"
        yield Issue("weight", "error", what, "give some of them a weight above 0, or remove the class")


def _unlisted(listing: Listing) -> Iterator[Issue]:
    """Count the images in the folder that the label file does not name."""
    assert listing.labels is not None
    listed = {file.path for file in listing.files}
    root = listing.root
    others = [path for path in image_names(root) if path not in listed]
    if others:
        names = tuple(shown_name(path.relative_to(root).as_posix()) for path in others)
        many = f"{len(others):,} images in {root} are" if len(others) > 1 else f"{names[0]} is"
        yield Issue("unlisted", "warning", f"{many} not in {listing.labels.path.name}", "left out", names)
