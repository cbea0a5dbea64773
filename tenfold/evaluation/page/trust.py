"""Texts and images of the audit section, from the parts of the audit (see `findings.py`).

Legend: S×S pixels.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tenfold.data.dataset import Dataset, Split
from tenfold.evaluation.corrupt import CORRUPTIONS, SEVERITIES, corrupt
from tenfold.evaluation.duplicates import Pair
from tenfold.evaluation.findings import (
    AuditParts,
    Corruptions,
    Duplicates,
    LabelIssues,
    SaliencyMaps,
    SplitIssues,
    cell_margin,
)
from tenfold.evaluation.labels import Issue
from tenfold.evaluation.metrics import shown
from tenfold.evaluation.page.picture import make_sheet, most_images
from tenfold.evaluation.page.sections import percent

KIND = "more"
_SHOWN = 24
_REVIEWED = 120
_SEVERITY = 3
_SHADES = 5


class _Sheet:
    """Collects images; each gets a number."""

    def __init__(self) -> None:
        self.images: list[np.ndarray] = []

    def add(self, image: np.ndarray) -> int:
        self.images.append(np.asarray(image))
        return len(self.images) - 1

    def style(self) -> str:
        return make_sheet(np.stack(self.images), np.arange(len(self.images)), KIND) if self.images else ""


def trust_section(audit: AuditParts | None, dataset: Dataset) -> tuple[dict[str, Any] | None, str]:
    """Values for the template, and the style sheet of their images; None and "" without an audit."""
    if audit is None:
        return None, ""
    sheet = _Sheet()
    values = {
        "figures": _figures(audit),
        "duplicates": _duplicates(audit.duplicates, dataset, sheet),
        "robustness": _robustness(audit.corruptions, dataset, sheet),
        "labels": _labels(audit.labels, dataset, sheet),
        "saliency": _saliency(audit.saliency, dataset, sheet),
        "seed_variance": audit.seed_variance,
    }
    return values, sheet.style()


def _figures(audit: AuditParts) -> list[tuple[str, str, str]]:
    rows = []
    if (found := audit.duplicates) and found.count:
        note = f"with all test images: {percent(found.accuracy)}"
        rows.append(("Without duplicates", percent(found.accuracy_without), note))
    if robustness := audit.corruptions:
        note = f"on the original images: {percent(robustness.clean_accuracy)}"
        rows.append(("On corrupted images", percent(robustness.mean_accuracy, 1), note))
    if audit.labels and (test := audit.labels.test):
        rows.append(("Test label issues", f"{test.suspected:,}", f"of {test.images:,} labels"))
    if (std := audit.seed_variance.std) is not None:
        note = f"standard deviation of the accuracy over {audit.seed_variance.n} runs"
        rows.append(("Seed variance", f"± {100 * std:.2f} points", note))
    return rows


def _name(split: Split, index: int, kind: str) -> str:
    return f"{kind} image {index}" if split.names is None else shown(str(split.names[index]), 120)


# --- duplicates ---------------------------------------------------------------------------------------------------


def _duplicates(part: Duplicates | None, dataset: Dataset, sheet: _Sheet) -> dict[str, Any] | None:
    if part is None:
        return None
    return {
        "text": _duplicates_text(part),
        "pairs": [_pair(pair, dataset, sheet) for pair in _sample_evenly(part.pairs)],
        "shown_of": len(part.pairs),
    }


def _sample_evenly(pairs: Sequence[Pair]) -> list[Pair]:
    """At most 24, evenly spaced from the highest score to the lowest."""
    chosen = np.unique(np.linspace(0, len(pairs) - 1, min(_SHOWN, len(pairs))).round().astype(int))
    return [pairs[number] for number in chosen]


def _duplicates_text(part: Duplicates) -> list[str]:
    if not part.count:
        return [f"No test image of {part.images:,} has a duplicate among the training images."]
    published = part.published_share
    beside = (
        f" Barz and Denzler (2020) found {percent(published)} by eye, including duplicates within the test set."
        if published
        else ""
    )
    found = (
        f"{part.count:,} of {part.images:,} test images ({percent(part.share)}) duplicate a training image: "
        f"shifted, mirrored, brightened, cropped or re-encoded; {part.in_place:,} of them unshifted."
        f"{beside}"
    )
    if part.accuracy_without is None:
        return [found]
    pairs = "pair" if part.labels_differ == 1 else "pairs"
    odd = f" In {part.labels_differ:,} {pairs} the labels differ." if part.labels_differ else ""
    scores = (
        f"The accuracy on these duplicates is {percent(part.accuracy_on_duplicates)}, and without them "
        f"{percent(part.accuracy_without)}, which is the fairer figure.{odd}"
    )
    if published:  # these are the images on which the search was tried
        return [found, scores]
    limits = "The similarity threshold was set on CIFAR-10, on brightness without colour: check the pairs by eye."
    return [found, scores, limits]


def _pair(pair: Pair, dataset: Dataset, sheet: _Sheet) -> dict[str, Any]:
    test, train, classes = dataset.test, dataset.train, dataset.classes
    labels = [shown(classes[int(split.labels[number])]) for number, split in ((pair.test, test), (pair.train, train))]
    return {
        "test": sheet.add(test.images[pair.test]),
        "train": sheet.add(train.images[pair.train]),
        "names": f"{_name(test, pair.test, 'test')} and {_name(train, pair.train, 'training')}",
        "label": labels[0] if labels[0] == labels[1] else f"{labels[0]} / {labels[1]}",
        "note": ("mirrored, " if pair.mirrored else "") + f"score {pair.score:.2f}",
    }


# --- corruptions -------------------------------------------------------------------------------------------------


def _robustness(part: Corruptions | None, dataset: Dataset, sheet: _Sheet) -> dict[str, Any] | None:
    if part is None:
        return None
    clean = part.clean_accuracy
    rows = [
        {
            "name": name,
            "cells": [_cell(share, clean) for share in shares],
            "mean": f"{100 * np.mean(shares):.1f}",
        }
        for name, shares in part.accuracy.items()
    ]
    image = np.asarray(dataset.test.images[:1])
    examples = [("original", sheet.add(image[0]))]
    examples += [(name, sheet.add(corrupt(image, name, _SEVERITY)[0])) for name in CORRUPTIONS]
    return {
        "text": (
            f"The 15 corruptions of Hendrycks and Dietterich (2019) on {part.images:,} test images, without TTA: "
            f"mean accuracy {percent(part.mean_accuracy, 1)}, against {percent(clean, 1)} on the original images. "
            f"The 95 % margin of a cell is ±{100 * cell_margin(part.images):.0f} points; the stronger its colour, "
            "the larger the loss. Frost is generated by code, not taken from photographs."
        ),
        "severities": SEVERITIES,
        "rows": rows,
        "foot": [f"{100 * share:.1f}" for share in part.by_severity],
        "mean": f"{100 * part.mean_accuracy:.1f}",
        "examples": examples,
        "severity": _SEVERITY,
    }


def _cell(share: float, clean: float) -> tuple[str, str]:
    """Text, and a shade by the share of correct predictions that were lost, in fifths."""
    lost = max(0.0, 1 - share / clean) if clean else 0.0
    return str(
        math.floor(100 * share + 0.5)
    ), f"s{min(_SHADES, int(np.ceil(lost * _SHADES)))}" if lost > 0.02 else "none"


# --- labels ------------------------------------------------------------------------------------------------------


def _labels(part: LabelIssues | None, dataset: Dataset, sheet: _Sheet) -> dict[str, Any] | None:
    if part is None:
        return None
    splits = (("test", part.test, dataset.test), ("training", part.train, dataset.train))
    galleries = [
        {
            "title": f"{found.suspected:,} of {found.images:,} {name} labels look wrong",
            "note": _issues_note(name, found),
            "shown": _SHOWN,
            "issues": [_issue(issue, split, name, dataset, sheet) for issue in found.issues[: _most_issues(split)]],
        }
        for name, found, split in splits
        if found
    ]
    return {"missing": part.missing, "galleries": galleries}


def _most_issues(split: Split) -> int:
    """How many label issues of a split the page has room for; the first of them are shown here, all to be reviewed."""
    return max(_SHOWN, min(_REVIEWED, most_images(*split.images.shape[1:3]) // 6))


def _issues_note(name: str, found: SplitIssues) -> str:
    agreement = f"agrees with {percent(found.agreement, 1)} of these labels"
    if name == "test":
        return f"Predicted by this run, which {agreement}."
    return f"Predicted by a network trained on the other folds (cross-validation), which {agreement}."


def _issue(issue: Issue, split: Split, kind: str, dataset: Dataset, sheet: _Sheet) -> dict[str, Any]:
    return {
        "sheet": sheet.add(split.images[issue.index]),
        "name": _name(split, issue.index, kind),
        "given": shown(dataset.classes[issue.given]),
        "suspected": shown(dataset.classes[issue.suspected]),
        "confidence": issue.suspected_probability,
        "issue": issue,
        "kind": kind,
    }


# --- saliency ----------------------------------------------------------------------------------------------


def _saliency(part: SaliencyMaps | None, dataset: Dataset, sheet: _Sheet) -> list[dict[str, Any]] | None:
    if not part or not part.images:
        return None
    test, found = dataset.test, []
    for mapped in part.images:
        found.append(
            {
                "sheets": [sheet.add(pixels) for pixels in (test.images[mapped.index], *mapped.images)],
                "name": _name(test, mapped.index, "test"),
                "truth": shown(dataset.classes[int(test.labels[mapped.index])]),
                "predicted": shown(dataset.classes[mapped.label]),
                "agreement": f"{mapped.agreement:.2f}",
            }
        )
    return found
