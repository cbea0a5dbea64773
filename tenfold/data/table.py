"""A table that a user wrote, CSV or parquet, row by row with the number of its line, so that errors can name it."""

import csv
import hashlib
import io
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenfold import extras
from tenfold.errors import DataError, UsageError, did_you_mean, one_line
from tenfold.files import to_utf8

LABEL_COLUMNS = ("path", "label", "split", "group", "weight")
"""What a label file may say of an image, and what its columns are called unless the user says otherwise."""
SPLIT_HEADER = ("path", "class", "split")
"""How the header of a run's `split.csv` begins, which is a label file, too: its cells are taken as they are."""
DELIMITERS = ",;\t|"
_MOST_NAMED = 8  # columns in a message


@dataclass(frozen=True)
class Row:
    """A row. line: of a CSV file the line where it starts, from 1; of a parquet file the row. cells: text, stripped."""

    line: int
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table of text. columns: as the header names them. unit: what its lines are called. sha256: of the file.

    delimiter: of a CSV file; "" of a parquet file.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    sha256: str
    delimiter: str = ""

    @property
    def unit(self) -> str:
        """What a line is called in messages."""
        return "line" if self.delimiter else "row"

    def where(self, *lines: int) -> str:
        """The place of a row in messages, or that of several."""
        return f"{self.path.name}, {self.unit}{'s' * (len(lines) > 1)} {' and '.join(f'{line:,}' for line in lines)}"

    def column(self, name: str) -> int | None:
        """Where the column of that name is: exactly so called, or else without regard to case; None for none.

        Raises `DataError` where there are several.
        """
        exact = [place for place, column in enumerate(self.columns) if column == name]
        alike = [place for place, column in enumerate(self.columns) if column.casefold() == name.casefold()]
        places = exact or alike
        if len(places) > 1:
            numbers = " and ".join(str(place + 1) for place in places)
            raise DataError(f"{self.path.name} has several columns called {name!r} ({numbers}): rename all but one")
        return places[0] if places else None


def read_table(path: Path, verbatim: Sequence[str] = ()) -> Table:
    """Read a CSV file (commas, semicolons, tabs or bars; UTF-8, or with a byte order mark) or a parquet file.

    verbatim: how the header of a file of ours begins, whose cells may begin and end with spaces. Raises `DataError`
    where there is no such file, `UsageError` where pyarrow is missing.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder, not a CSV or parquet file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({one_line(error)})") from error
    digest = hashlib.sha256(content).hexdigest()
    if content[:4] == b"PAR1" or path.suffix.casefold() == ".parquet":
        return Table(path, *_read_parquet(path, content), digest)
    return parse_csv(path, content, verbatim)


def parse_csv(path: Path, content: bytes, verbatim: Sequence[str] = ()) -> Table:
    """As `read_table`, of a CSV file's bytes; path: for messages."""
    try:
        text = to_utf8(content).decode()
        if "\0" in text:
            raise ValueError("it holds NUL")
    except ValueError as error:
        raise DataError(f"{path} is neither CSV, as text in UTF-8, nor parquet: save it as one of these") from error
    if not text.strip():
        raise DataError(f"{path} is empty: its first line names the columns, as path,label")
    delimiter = _delimiter(text)
    lines = _csv_lines(path, text, delimiter)
    _, header = next(lines)
    columns = tuple(cell.strip() for cell in header)
    strip = not verbatim or columns[: len(verbatim)] != tuple(verbatim)
    rows = (Row(line, tuple(cell.strip() for cell in cells) if strip else tuple(cells)) for line, cells in lines)
    return Table(path, columns, tuple(rows), hashlib.sha256(content).hexdigest(), delimiter)


def _delimiter(text: str) -> str:
    """The one that divides the header into the most cells; the first of `DELIMITERS` where several do."""
    header = next(line for line in text.splitlines() if line.strip())
    return max(DELIMITERS, key=lambda delimiter: len(next(csv.reader([header], delimiter=delimiter))))


def _csv_lines(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The cells of each row that is not blank, and the line where it starts."""
    reader, line = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path.name}, line {line:,}: it is no CSV ({error}): mend its quotes") from error


def _read_parquet(path: Path, content: bytes) -> tuple[tuple[str, ...], tuple[Row, ...]]:
    extras.require("parquet", extras.PARQUET)
    from pyarrow import ArrowException, BufferReader, parquet

    try:
        table = parquet.read_table(BufferReader(content))
    except (ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} is no parquet file that can be read: {one_line(error)}") from error
    cells = zip(*(map(_to_text, column.to_pylist()) for column in table.columns), strict=True)
    return tuple(table.column_names), tuple(Row(number, row) for number, row in enumerate(cells, start=1))


def _to_text(value: Any) -> str:
    """A parquet value as a CSV file would have it: nothing for null, whole numbers without a point."""
    if value is None or value != value:  # the latter for nan
        return ""
    if isinstance(value, bytes):
        return value.decode(errors="replace").strip()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def path_forms(text: str) -> Iterator[str]:
    """Ways to read a path, the first that is a file counts: as it is, with `/` for `\\`, other forms of Unicode."""
    yield text
    plain = text.strip()
    for form in (plain, plain.replace("\\", "/")):
        yield from dict.fromkeys((form, unicodedata.normalize("NFC", form), unicodedata.normalize("NFD", form)))


# --- which column is which --------------------------------------------------------------------------------------------


def check_columns(columns: str) -> None:
    """Raise `UsageError` for wrong `--label-columns`."""
    parse_columns(columns)


def parse_columns(text: str, roles: Sequence[str] = LABEL_COLUMNS) -> dict[str, str]:
    """Column names by role, of `path=file,label=species`. Raises `UsageError`."""
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        role, equals, name = (piece.strip() for piece in part.partition("="))
        if not equals or not name:
            raise UsageError(f"--label-columns: write it as path=file,label=species, not {text!r}")
        if role not in roles:
            known = f"{', '.join(roles[:-1])} or {roles[-1]}"
            raise UsageError(f"--label-columns names columns for {known}, not {role!r}{did_you_mean(role, roles)}")
        if role in found:
            raise UsageError(f"--label-columns names two columns for {role}: {found[role]} and {name}")
        found[role] = name
    return found


def find_columns(
    table: Table, named: Mapping[str, str], usual: Mapping[str, Sequence[str]], required: Sequence[str], option: str
) -> dict[str, int]:
    """Where the column of each role is; those that may be missing and are, are not in it.

    named: column names that the user gave; usual: names that a role has otherwise; option: how the user names one.
    Raises `DataError` that names a missing column and those that are there, or one that is there twice.
    """
    found: dict[str, int] = {}
    for role, names in usual.items():
        wanted = [named[role]] if role in named else names
        places = [place for name in wanted if (place := table.column(name)) is not None]
        if places:
            found[role] = places[0]
        elif role in required or role in named:
            there = ", ".join(table.columns[:_MOST_NAMED]) + ", …" * (len(table.columns) > _MOST_NAMED)
            close = did_you_mean(wanted[0], table.columns)
            what = f"{table.path.name} has no column {wanted[0]!r} but {there}{close}"
            raise DataError(f"{what}{f': say which one it is with {option} {role}=NAME' if option else ''}")
    return found
