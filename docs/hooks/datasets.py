"""The named data sets, from their entries."""

from tables import code, plain, table

import tenfold.data  # noqa: F401  # registers them
from tenfold.data.entry import DATASETS


def reference() -> str:
    """One row for each data set."""
    entries = [DATASETS.find(name) for name in DATASETS.names()]
    header = ("name", "data set", "images", "size", "classes", "licence", "citation")
    rows = (
        (
            code(entry.name),
            entry.title,
            f"{entry.train:,} + {entry.test:,}",
            "×".join(map(str, entry.shape)),
            str(len(entry.classes)),
            entry.licence,
            plain(entry.citation),
        )
        for entry in entries
    )
    return table(header, rows)
