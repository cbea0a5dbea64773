"""split.csv in a run directory: every image of a folder, its class, and what it was used for."""

import csv
import io
from collections.abc import Iterator

from tenfold.data import Dataset
from tenfold.data.dataset import Split
from tenfold.data.table import SPLIT_HEADER
from tenfold.files import write_text
from tenfold.training.run import Run

SPLIT_FILE = "split.csv"


def write_split(run: Run, dataset: Dataset, train: Split, val: Split | None) -> None:
    """Write split.csv: every image's path below its folder, its class, and what it was used for; a valid label file.

    Groups and weights are in it where there are any.
    """
    text = io.StringIO()
    rows, more = csv.writer(text, lineterminator="\n"), _more_columns(train)
    rows.writerow((*SPLIT_HEADER, *more))
    for name, part in (("train", train), ("val", val), ("test", dataset.test)):
        if part is not None and part.names is not None:
            columns = (getattr(part, column).tolist() for column in more.values())
            classes = (dataset.classes[label] for label in part.labels)
            rows.writerows(zip(part.names, classes, [name] * len(part), *columns, strict=True))
    write_text(run.path / SPLIT_FILE, text.getvalue())


def _more_columns(part: Split) -> dict[str, str]:
    """Columns of split.csv, and the attribute of a `Split` that each is from, as far as there are such."""
    columns = {"group": "groups", "weight": "weights"}
    return {name: attribute for name, attribute in columns.items() if getattr(part, attribute) is not None}


def read_splits(run: Run) -> Iterator[tuple[str, str]]:
    """Name and split of every image that a run was made with, where it has a list of them."""
    yield from ((row.get("path") or "", row.get("split") or "") for row in read_rows(run))


def count_held_out(run: Run) -> int:
    """How many validation images a run has: of groups, about as many as its recipe asks for."""
    return sum(split == "val" for _, split in read_splits(run)) or run.recipe.val_size


def read_rows(run: Run) -> Iterator[dict[str, str | None]]:
    """Its rows, by column; none where a run has no such file."""
    path = run.path / SPLIT_FILE
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            yield from csv.DictReader(file)
