"""Corrections of labels: a table that a run's page writes → a data set with other labels, or without some images.

The images themselves are never touched. An image of a folder is found by its path below the folder, or by its content
where it was renamed; one of a data set without files by its number. Splits are drawn before anything is corrected, so
the test images stay the same ones.
"""

import hashlib
import json
import posixpath
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from tenfold.data.dataset import AppliedCorrections, Dataset, Split
from tenfold.data.table import Row, Table, find_columns, parse_csv, path_forms, read_table
from tenfold.errors import DataError, UsageError, did_you_mean

Action = Literal["keep", "relabel", "drop", "unsure"]
ACTIONS: tuple[Action, ...] = get_args(Action)
COLUMNS = ("path", "sha256", "split", "index", "given", "action", "label")
"""Of corrections.csv. path: below the folder, with the SHA-256 of the file; split and index: of a data set without
files, train or test, counted from 0. given: the label when it was looked at; label: what it should be (`relabel`)."""
CORRECTIONS = "corrections.csv"
_MOST_DIGITS = 12
Place = tuple[str, int]
"""A part of a data set, train or test, and a row in it."""


@dataclass(frozen=True)
class Correction:
    """A row. index: −1 where it has none."""

    line: int
    path: str
    sha256: str
    split: str
    index: int
    given: str
    action: Action
    label: str

    @property
    def changes(self) -> bool:
        """Whether it does anything: `keep` and `unsure` do not."""
        return self.action in ("relabel", "drop")


@dataclass(frozen=True)
class Corrections:
    """A file of corrections that was read."""

    table: Table
    content: bytes
    rows: tuple[Correction, ...]

    def where(self, *lines: int) -> str:
        """The place of rows in messages."""
        return self.table.where(*lines)


def read_corrections(path: Path) -> Corrections:
    """Read a file of corrections. Raises `DataError` that names the first wrong line."""
    table = read_table(path, COLUMNS[:1])
    return _parse(table, path.read_bytes())


def parse_corrections(content: bytes, path: Path = Path(CORRECTIONS)) -> Corrections:
    """As `read_corrections`, of a CSV file's bytes; path: for messages."""
    return _parse(parse_csv(path, content, COLUMNS[:1]), content)


def _parse(table: Table, content: bytes) -> Corrections:
    columns = find_columns(table, {}, {name: (name,) for name in COLUMNS}, ("action",), "")
    errors: list[str] = []
    rows = [row for line in table.rows if (row := _parse_row(table, line, columns, errors))]
    _refuse(errors)
    return Corrections(table, content, tuple(rows))


def _parse_row(table: Table, row: Row, columns: dict[str, int], errors: list[str]) -> Correction | None:
    if len(row.cells) != len(table.columns):
        errors.append(f"{table.where(row.line)}: {len(row.cells)} cells instead of {len(table.columns)}")
        return None
    cells = {name: row.cells[columns[name]] if name in columns else "" for name in COLUMNS}
    action, index = cells["action"].strip().casefold(), cells["index"].strip()
    if action not in ACTIONS:
        known = f"{', '.join(ACTIONS[:-1])} or {ACTIONS[-1]}"
        errors.append(f"{table.where(row.line)}: the action is {cells['action']!r}: write {known}")
    elif index and not (index.isdecimal() and len(index) <= _MOST_DIGITS):
        errors.append(f"{table.where(row.line)}: the index is {index[:20]!r}: write the image's number, from 0")
    elif not cells["path"] and not index:
        errors.append(f"{table.where(row.line)}: neither a path nor an index: say which image it is")
    elif action == "relabel" and not cells["label"].strip():
        errors.append(f"{table.where(row.line)}: relabel without a label: say which one")
    else:
        number = int(index) if index else -1
        named = {name: cells[name] for name in ("path", "given", "label")}
        digest, split = cells["sha256"].strip().casefold(), cells["split"].strip().casefold()
        return Correction(row.line, sha256=digest, split=split, index=number, action=action, **named)
    return None


def _refuse(errors: list[str]) -> None:
    if errors:
        raise DataError(errors[0] + (f" (and {len(errors) - 1:,} more)" if len(errors) > 1 else ""))


# --- finding the images -----------------------------------------------------------------------------------------------


class _Finder:
    """Finds the images of corrections: each is a part of the data set, train or test, and a row in it."""

    def __init__(self, dataset: Dataset, corrections: Corrections):
        self.dataset, self.corrections = dataset, corrections
        self.parts: dict[str, Split] = {"train": dataset.train, "test": dataset.test}
        self.has_files = dataset.train.names is not None
        self.by_name: dict[str, Place] = {}
        self.by_content: dict[str, list[Place]] = {}
        for name, part in self.parts.items():
            for row, file in enumerate([] if part.names is None else part.names.tolist()):
                self.by_name[file] = (name, row)
            for row, digest in enumerate([] if part.digests is None else part.digests.tolist()):
                self.by_content.setdefault(digest, []).append((name, row))

    def find(self, correction: Correction) -> Place:
        """Its part and row. Raises `DataError`."""
        if self.has_files != bool(correction.path):
            it = "names a file" if correction.path else "has no path"
            raise self._error(correction, f"it {it}", f"it is about other data than {self.dataset.name}")
        return self._find_file(correction) if correction.path else self._find_number(correction)

    def _find_file(self, correction: Correction) -> Place:
        found, digest = self._by_path(correction.path), correction.sha256
        if found and (not digest or self._digest(found) in ("", digest)):
            return found
        same = self.by_content.get(digest, []) if digest else []
        if len(same) == 1:
            return same[0]
        if found:
            raise self._error(correction, f"{correction.path} is another image now", "look again, or remove the line")
        do = "mend the path, or remove the line"
        raise self._error(correction, f"{correction.path} is not among the images of {self.dataset.name}", do)

    def _by_path(self, text: str) -> Place | None:
        """The image at a path below the folder, or at one that begins with the folder's; read as in label files."""
        root = self.dataset.origin.path if self.dataset.origin else ""
        for form in path_forms(text):
            path = posixpath.normpath(form)
            below = posixpath.relpath(path, root) if root and posixpath.isabs(path) else path
            if place := self.by_name.get(form) or self.by_name.get(below):
                return place
        return None

    def _digest(self, found: Place) -> str:
        digests = self.parts[found[0]].digests
        return "" if digests is None else str(digests[found[1]])

    def _find_number(self, correction: Correction) -> Place:
        if correction.split not in self.parts:
            raise self._error(correction, f"the split is {correction.split!r}", "write train or test")
        part = self.parts[correction.split]
        if correction.index >= len(part):
            what = f"{self.dataset.name} has {len(part):,} {correction.split} images, none with the index"
            raise self._error(correction, f"{what} {correction.index:,}", "mend it, or remove the line")
        return correction.split, correction.index

    def _error(self, correction: Correction, what: str, do: str) -> DataError:
        return DataError(f"{self.corrections.where(correction.line)}: {what}: {do}")


# --- applying ---------------------------------------------------------------------------------------------------------


def apply_corrections(dataset: Dataset, corrections: Corrections) -> Dataset:
    """The data set with the labels corrected, without the images that are dropped; `Dataset.corrections` counts them.

    Raises `DataError` that names the first wrong line: an image that is not there or is another one now, a label that
    is no class or that changed since; and where a class is left without a training image; `UsageError` for a data set
    that is corrected already.
    """
    if dataset.corrections is not None:
        raise UsageError(f"{dataset.name} is corrected already: merge the two files of corrections")
    chosen = _find_all(dataset, corrections)
    parts = {"train": dataset.train, "test": dataset.test}
    new = {name: _corrected(part, name, chosen, dataset.classes) for name, part in parts.items()}
    last = len(dataset.train) - dataset.val_size
    dropped_val = sum(part == "train" and row >= last for (part, row), c in chosen.items() if c.action == "drop")
    val_size, origin = dataset.val_size - dropped_val, dataset.origin
    _require_images(dataset, new["train"][: len(new["train"]) - val_size], new["test"], corrections)
    if origin and chosen:
        origin = replace(origin, sha256=_digest(origin.sha256, chosen), uncorrected_sha256=origin.sha256)
    applied = _count(chosen, corrections)
    return replace(dataset, train=new["train"], test=new["test"], val_size=val_size, origin=origin, corrections=applied)


def _count(chosen: dict[Place, Correction], corrections: Corrections) -> AppliedCorrections:
    made = Counter((correction.action, part) for (part, _), correction in chosen.items())
    asked = Counter(row.action for row in corrections.rows)
    return AppliedCorrections(
        content=corrections.content,
        relabelled_train=made["relabel", "train"],
        relabelled_test=made["relabel", "test"],
        dropped_train=made["drop", "train"],
        dropped_test=made["drop", "test"],
        kept=asked["keep"],
        unsure=asked["unsure"],
    )


def _find_all(dataset: Dataset, corrections: Corrections) -> dict[Place, Correction]:
    """The corrections that change something, by part and row. Raises `DataError`."""
    finder, errors = _Finder(dataset, corrections), list[str]()
    chosen: dict[Place, Correction] = {}
    for row in filter(lambda row: row.changes, corrections.rows):
        try:
            place = finder.find(row)
        except DataError as error:
            errors.append(str(error))
            continue
        given = dataset.classes[int(finder.parts[place[0]].labels[place[1]])]
        before = chosen.get(place)
        if before and (before.action, before.label) != (row.action, row.label):
            both = corrections.where(before.line, row.line)
            errors.append(f"{both}: two corrections of one image: keep the line that is right")
        elif wrong := _wrong_label(row, given, dataset.classes):
            errors.append(f"{corrections.where(row.line)}: {wrong}")
        elif not before and (row.action == "drop" or row.label != given):
            chosen[place] = row
    _refuse(errors)
    return chosen


def _wrong_label(row: Correction, given: str, classes: tuple[str, ...]) -> str:
    """What is wrong with the labels of a correction of an image that is labelled `given`; "" for nothing."""
    if row.action == "relabel" and row.label not in classes:
        return f"{row.label!r} is no class{did_you_mean(row.label, classes)}: choose one of {_named(classes)}"
    if row.given and row.given != given and row.label != given:
        return f"the image is labelled {given!r} now, not {row.given!r} as when it was looked at: look again"
    return ""


def _named(classes: tuple[str, ...], most: int = 10) -> str:
    return ", ".join(classes[:most]) + (", …" if len(classes) > most else "")


def _corrected(part: Split, name: str, chosen: dict[Place, Correction], classes: tuple[str, ...]) -> Split:
    labels, kept = part.labels.copy(), np.ones(len(part), bool)
    for (of, row), correction in chosen.items():
        if of == name and correction.action == "drop":
            kept[row] = False
        elif of == name:
            labels[row] = classes.index(correction.label)
    changed = replace(part, labels=labels)
    return changed if kept.all() else replace(changed, numbers=np.arange(len(part)))[kept]


def _require_images(dataset: Dataset, train: Split, test: Split, corrections: Corrections) -> None:
    before = np.bincount(dataset.train.labels, minlength=len(dataset.classes)) > 0
    gone = np.flatnonzero(before & (np.bincount(train.labels, minlength=len(dataset.classes)) == 0))
    name = corrections.table.path.name
    if len(gone):
        raise DataError(f"{name} leaves no training image of class {dataset.classes[gone[0]]!r}: keep some")
    if len(test) == 0:
        raise DataError(f"{name} leaves no test image: keep some")


def _digest(sha256: str, chosen: Mapping[Place, Correction]) -> str:
    """SHA-256 of a folder's images, of which this is the SHA-256, and of what was changed in them."""
    changes = sorted((*place, row.action, row.label * (row.action == "relabel")) for place, row in chosen.items())
    return hashlib.sha256(json.dumps([sha256, changes]).encode()).hexdigest()
