"""split.csv in a run directory: every image of a folder, its class, and what it was used for."""

import csv
import io
from collections.abc import Iterator

from tenfold.data import Dataset
from tenfold.data.dataset import Split
from tenfold.files import write_text
from tenfold.training.run import Run

SPLIT_FILE = "split.csv"


def write_split(run: Run, dataset: Dataset, train: Split, val: Split | None) -> None:
    """Write split.csv: every image's path below its folder, its class, and what it was used for."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("path", "class", "split"))
    for name, part in (("train", train), ("val", val), ("test", dataset.test)):
        if part is not None and part.names is not None:
            rows.writerows(
                (path, dataset.classes[label], name) for path, label in zip(part.names, part.labels, strict=True)
            )
    write_text(run.path / SPLIT_FILE, text.getvalue())


def read_splits(run: Run) -> Iterator[tuple[str, str]]:
    """Name and split of every image that a run was made with, where it has a list of them."""
    yield from ((row.get("path") or "", row.get("split") or "") for row in read_rows(run))


def read_rows(run: Run) -> Iterator[dict[str, str | None]]:
    """Its rows, by column; none where a run has no such file."""
    path = run.path / SPLIT_FILE
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            yield from csv.DictReader(file)
