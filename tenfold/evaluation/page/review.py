"""The images whose labels a reader is asked to look at, as data for the page's script: label issues and mistakes.

Names are as they are in files here, not shortened: the script writes them to corrections.csv.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tenfold.data.corrections import COLUMNS, parse_corrections
from tenfold.data.dataset import Dataset
from tenfold.evaluation.metrics import shown
from tenfold.evaluation.page.trust import KIND

MISTAKES = "mistakes"
ISSUES = {"test": "test issues", "train": "training issues"}
"""Why an image is among them."""


@dataclass(frozen=True)
class Doubt:
    """An image to look at. split: train or test; row: in it; sheet: its number on the sheet of that kind ("" or more).

    label: its number; suggested: that of another label, with its confidence. why: one of `ISSUES` or `MISTAKES`.
    """

    split: str
    row: int
    kind: str
    sheet: int
    label: int
    suggested: int
    confidence: float
    why: str


def issue_doubts(audited: Mapping[str, Any] | None) -> Iterator[Doubt]:
    """The label issues in the values of `trust_section`, as far as their images are on the page."""
    for gallery in ((audited or {}).get("labels") or {}).get("galleries", ()):
        for found in gallery["issues"]:
            issue, split = found["issue"], "test" if found["kind"] == "test" else "train"
            labels = (issue.given, issue.suspected, issue.suspected_probability)
            yield Doubt(split, issue.index, KIND, found["sheet"], *labels, ISSUES[split])


def mistake_doubts(
    numbers: np.ndarray, labels: np.ndarray, predicted: np.ndarray, confidence: np.ndarray
) -> Iterator[Doubt]:
    """The mistakes among the test images that are on the sheet (`numbers`, in its order), most confident first.

    labels, predicted: int N; confidence: float N.
    """
    wrong = np.flatnonzero(labels[numbers] != predicted[numbers])
    for sheet in wrong[np.argsort(-confidence[numbers[wrong]], kind="stable")].tolist():
        number = int(numbers[sheet])
        found = (int(labels[number]), int(predicted[number]), float(confidence[number]))
        yield Doubt("test", number, "", sheet, *found, MISTAKES)


def review_data(dataset: Dataset, key: str, doubts: Iterable[Doubt]) -> dict[str, Any]:
    """What the page's script needs. key: what the reader's choices are kept under in the browser.

    Of an image that is there for two reasons, the first counts, and both are named.
    """
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for doubt in doubts:
        place = (doubt.split, doubt.row)
        if place in found:
            found[place]["why"].append(doubt.why)
        else:
            found[place] = _item(dataset, doubt)
    return {
        "key": key,
        "classes": list(dataset.classes),
        "columns": list(COLUMNS),
        "items": list(found.values()),
        "earlier": _earlier(dataset),
    }


def _item(dataset: Dataset, doubt: Doubt) -> dict[str, Any]:
    split = dataset.train if doubt.split == "train" else dataset.test
    number = doubt.row if split.numbers is None else int(split.numbers[doubt.row])
    path = "" if split.names is None else str(split.names[doubt.row])
    kind = "training" if doubt.split == "train" else "test"
    return {
        "path": path,
        "sha256": "" if split.digests is None else str(split.digests[doubt.row]),
        "split": doubt.split,
        "index": "" if path else str(number),
        "name": shown(path, 120) if path else f"{kind} image {doubt.row}",
        "image": f"more i{doubt.sheet}" if doubt.kind else f"i{doubt.sheet}",
        "label": doubt.label,
        "suggested": doubt.suggested,
        "confidence": doubt.confidence,
        "why": [doubt.why],
    }


def _earlier(dataset: Dataset) -> list[dict[str, str]]:
    """The corrections that the run was trained with, so that what is saved holds them, too."""
    if not dataset.corrections:
        return []
    names = _names_by_content(dataset)
    rows = []
    for row in parse_corrections(dataset.corrections.content).rows:
        path = names.get(row.sha256, row.path) if row.path else ""
        index = str(row.index) if row.index >= 0 else ""
        values = (path, row.sha256, row.split, index, row.given, row.action, row.label)
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def _names_by_content(dataset: Dataset) -> Mapping[str, str]:
    """Where an image is now that was renamed since: by its content, where no other has the same."""
    found: dict[str, list[str]] = {}
    for part in (dataset.train, dataset.test):
        if part.names is not None and part.digests is not None:
            for name, digest in zip(part.names.tolist(), part.digests.tolist(), strict=True):
                found.setdefault(digest, []).append(name)
    return {digest: names[0] for digest, names in found.items() if len(names) == 1}
