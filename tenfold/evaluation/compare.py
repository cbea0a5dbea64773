"""Comparison of runs: metrics, significance tests, per-class recall and disagreements, as one offline page.

Legend: N test images, R runs, K classes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tenfold.console import log_info, progress
from tenfold.data.dataset import Dataset
from tenfold.errors import DataError, ModelError, UsageError
from tenfold.evaluation import metrics, plots
from tenfold.evaluation.evaluate import class_numbers, read_predictions
from tenfold.evaluation.metrics import shown
from tenfold.evaluation.outputs import digest_of_images, digest_of_kept_images
from tenfold.evaluation.page import comparison_page, picture
from tenfold.evaluation.page.sections import format_value, percent
from tenfold.evaluation.report import cut, name_images
from tenfold.evaluation.significance import Paired, compare_pair, holm
from tenfold.files import write_text
from tenfold.training.fingerprint import digest_of_data, have_same_data, is_own
from tenfold.training.provenance import as_own, reload_dataset
from tenfold.training.run import Run
from tenfold.training.runs import compare_runs

_SECTIONS = (
    ("scores", "Metrics"),
    ("differ", "Significance tests"),
    ("classes", "Per-class metrics"),
    ("images", "Disagreements"),
    ("recipes", "Recipes"),
)
_HAND_OVER = "tenfold.compare(runs, out, dataset)"
ALPHA = 0.05
"""With a p below it, a difference is called significant."""
_PLAIN = ("recipe", "seed", "epochs", "parameters", "device", "dtype")


@dataclass(frozen=True)
class Side:
    """One of the runs: its scores, and for each test image its prediction (int N) and confidence (float N)."""

    name: str
    run: Run
    results: dict[str, Any]
    predicted: np.ndarray
    confidence: np.ndarray

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the test accuracy."""
        return metrics.wilson_interval(round(self.results["test_accuracy"] * len(self.predicted)), len(self.predicted))


@dataclass(frozen=True)
class Difference:
    """Of a run's test accuracy to the first one's, with its 95 % interval, all in [-1, 1]; p: McNemar's, by Holm."""

    name: str
    first: str
    difference: float
    interval: tuple[float, float]
    p: float

    def __str__(self) -> str:
        low, high = (f"{100 * limit:+.2f}" for limit in self.interval)
        verdict = "" if self.p < ALPHA else ": no significant difference"
        points = f"{100 * self.difference:+.2f} points on the same test images (95 % sure: {low} to {high})"
        return f"{self.name} against {self.first}: {points}{verdict}"


@dataclass(frozen=True)
class Comparison:
    """Runs scored on the same test images, whose labels are int N."""

    dataset: Dataset
    labels: np.ndarray
    sides: list[Side]

    @property
    def right(self) -> np.ndarray:
        """bool N×R."""
        return self.predicted == self.labels[:, None]

    @property
    def predicted(self) -> np.ndarray:
        """int N×R."""
        return np.stack([side.predicted for side in self.sides], axis=1)

    def pairs(self) -> list[tuple[Side, Paired, float]]:
        """Every run but the first against the first, with McNemar's p after Holm's correction."""
        pairs = [compare_pair(self.right[:, 0], self.right[:, i]) for i in range(1, len(self.sides))]
        return list(zip(self.sides[1:], pairs, holm([pair.p for pair in pairs]), strict=True))

    def differences(self) -> list[Difference]:
        """As `pairs`, in numbers that travel."""
        first = self.sides[0].name
        return [Difference(side.name, first, pair.difference, pair.interval, p) for side, pair, p in self.pairs()]

    def differing(self) -> np.ndarray:
        """Numbers of the images with different predictions: first those that some run has right, by confidence."""
        numbers = np.flatnonzero((self.predicted != self.predicted[:, :1]).any(axis=1))
        confidence = np.stack([side.confidence for side in self.sides], axis=1)[numbers].max(axis=1)
        return numbers[np.lexsort((-confidence, ~self.right[numbers].any(axis=1)))]


@dataclass(frozen=True, repr=False)
class ComparisonPage:
    """The page of a comparison, which needs no other file (`path`), and what is compared.

    scores: of each run its name, test accuracy and 95 % interval (Wilson's), in [0, 1]. differences: of each run but
    the first. `open` and `Path` take it for its page. In a notebook it shows these scores as a plot.
    """

    path: Path
    scores: tuple[tuple[str, float, tuple[float, float]], ...]
    differences: tuple[Difference, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Path, scores and differences as they are in JSON."""
        scores = [{"run": name, "test_accuracy": share, "interval": limits} for name, share, limits in self.scores]
        return {"path": str(self.path), "scores": scores, "differences": [asdict(one) for one in self.differences]}

    def __repr__(self) -> str:
        return f"ComparisonPage({str(self.path)!r}, {len(self.scores)} runs)"

    def __fspath__(self) -> str:
        return str(self.path)

    def _repr_png_(self) -> bytes:
        return plots.to_png(plots.accuracies(self.scores, f"{len(self.scores)} runs compared"), dpi=100)


def write_comparison(paths: Sequence[Path], out: Path, data: Dataset | Path | None = None) -> ComparisonPage:
    """Write the page of several scored runs to `out`.

    data: what the first of them was trained on, or where its folder is now; by default it is found. Raises `UsageError`
    where a run is named twice, `ModelError` for one that is unfinished or damaged, `DataError` where they were not
    scored on the same images, or the images are not there.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise UsageError("a run cannot be compared with itself: name each run once")
    with progress("comparing", len(paths) + 1) as bar:
        comparison = read_comparison(paths, bar, data)
        write_text(out, _page(comparison))
        bar(1)
    scores = ((side.name, side.results["test_accuracy"], side.interval) for side in comparison.sides)
    return ComparisonPage(out, tuple(scores), tuple(comparison.differences()))


def read_comparison(
    paths: Sequence[Path], advance: Any = lambda amount: None, data: Dataset | Path | None = None
) -> Comparison:
    """Read the predictions of each run; see `write_comparison` for what is raised."""
    runs = [Run.open(path) for path in paths]
    dataset = _given(runs[0], data) if isinstance(data, Dataset) else reload_dataset(runs[0], data, _HAND_OVER)
    labels = dataset.test.labels.astype(np.int64)
    names, sides = _names(paths), []
    for name, run in zip(names, runs, strict=True):
        sides.append(_read_side(name, run, dataset, labels, runs[0]))
        advance(1)
    return Comparison(dataset, labels, sides)


def _given(first: Run, data: Dataset) -> Dataset:
    data = as_own(first, data)
    if not is_own(first.env, data):
        raise DataError(f"{data.name} is not what {first.path}, the first of the runs, was trained on")
    return data


def _names(paths: Sequence[Path]) -> list[str]:
    """Names of the runs: their folders, or as much of their paths as distinguishes them."""
    for depth in range(1, 1 + max(len(path.resolve().parts) for path in paths)):
        names = [shown("/".join(path.resolve().parts[-depth:]), 60) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{number}. {shown(path.name, 56)}" for number, path in enumerate(paths, start=1)]


def _read_side(name: str, run: Run, dataset: Dataset, labels: np.ndarray, first: Run) -> Side:
    results = run.require_scores()
    run.verify("results.json", "predictions.csv")
    frame = read_predictions(run)
    true, predicted = (class_numbers(frame[column], dataset.classes) for column in ("true", "predicted"))
    if not _has_same_images(run, first, frame, dataset) or true is None or not np.array_equal(true, labels):
        why = (
            ": a folder without test/ is split by the seed, so give them the same --seed"
            if dataset.test.names is not None
            else ""
        )
        raise DataError(f"{run.path} and {first.path} were not scored on the same test images{why}")
    if predicted is None:
        raise ModelError(f"{run.path / 'predictions.csv'} names classes that {dataset.name} does not have")
    return Side(name, run, results, predicted, frame["probability"].to_numpy(float))


def _has_same_images(run: Run, first: Run, frame: pd.DataFrame, dataset: Dataset) -> bool:
    """Whether a run's predictions are of the test images of `dataset`, on which `first` was scored.

    Where a folder lies, and what size its images were brought to, may differ; the seed may draw other images from it.
    """
    names = dataset.test.names
    if have_same_data(run.env, first.env):
        return names is None or np.array_equal(frame.get("path", []), names)
    if "folder" in run.env or "folder" in first.env or run.env["data"] != first.env["data"]:
        return False
    if digest_of_kept_images(run, "test") != digest_of_images(dataset.test):
        return False
    other = f"{run.path} was trained on other data called {run.env['data']!r} than {first.path}"
    log_info(f"{other}: only their test images are the same, so what differs may be due to the data")
    return True


# --- the page ---


def _page(comparison: Comparison) -> str:
    images, differing = comparison.dataset.test.images, comparison.differing()
    chosen = differing[: picture.most_images(*images.shape[1:3])]
    names = name_images(comparison.dataset.test.names, len(images))
    sides = comparison.sides
    data = {
        "classes": [shown(name) for name in comparison.dataset.classes],
        "runs": [side.name for side in sides],
        "images": [
            [
                names[n],
                int(comparison.labels[n]),
                [int(side.predicted[n]) for side in sides],
                [cut(side.confidence[n]) for side in sides],
            ]
            for n in chosen.tolist()
        ],
    }
    values = _values(comparison, len(differing), len(chosen))
    return comparison_page(values, picture.make_sheet(images, chosen), data)


def _values(comparison: Comparison, differing: int, here: int) -> dict[str, Any]:
    sides = comparison.sides
    return {
        "title": f"{len(sides)} runs compared",
        "subtitle": f"{len(comparison.labels):,} test images of {comparison.dataset.name}",
        "sections": _SECTIONS,
        "runs": [side.name for side in sides],
        "scores": _score_rows(sides),
        "pairs": [_pair_row(sides[0], *pair) for pair in comparison.pairs()],
        "recalls": _recall_rows(comparison),
        "absent": [
            shown(name) for label, name in enumerate(comparison.dataset.classes) if label not in comparison.labels
        ],
        "differing": differing,
        "here": here,
        "recipes": _recipe_rows(sides),
    }


def _score_rows(sides: list[Side]) -> list[tuple[str, list[str]]]:
    """Name of a metric and its value in each run; metrics that no run has are left out."""
    every = [side.results for side in sides]
    rows = [
        ("Test accuracy", [percent(results["test_accuracy"]) for results in every]),
        ("95 % interval", [" to ".join(map(percent, side.interval)) for side in sides]),
    ]
    shares = {"test_accuracy_single_view": "Accuracy without TTA", "test_accuracy_top5": "Top-5 accuracy"}
    shares |= {"balanced_accuracy": "Balanced accuracy", "macro_f1": "Macro F1"}
    shares |= {"val_accuracy": "Validation accuracy", "ece": "Calibration error"}
    numbers = {"test_cross_entropy": "Cross-entropy", "train_seconds": "Training, s", "total_seconds": "Total, s"}
    for known, to_text in ((shares, percent), (numbers, lambda value: f"{value:,.4g}")):
        for key, name in known.items():
            rows.append((name, ["" if results.get(key) is None else to_text(results[key]) for results in every]))
    if len(digests := {digest_of_data(side.run.env) for side in sides}) > 1 and None not in digests:
        rows.append(("SHA-256 of the data", [(digest_of_data(side.run.env) or "")[:12] for side in sides]))
    rows += [(key, [format_value(results.get(key, "")) for results in every]) for key in _PLAIN]
    return [row for row in rows if any(row[1])]


def _pair_row(first: Side, second: Side, pair: Paired, p: float) -> dict[str, Any]:
    better, worse = (second, first) if pair.difference > 0 else (first, second)
    shown_better = f"{better.name} is better than {worse.name} (p < {ALPHA})"
    low, high = (f"{100 * limit:+.2f}" for limit in pair.interval)
    return {
        "name": second.name,
        "only_first": pair.only_first,
        "only_second": pair.only_second,
        "difference": f"{100 * pair.difference:+.2f}",
        "interval": f"{low} to {high}",
        "p": f"{p:.2g}" if p >= 0.0001 else "< 0.0001",
        "verdict": shown_better if p < ALPHA else "no significant difference",
    }


def _recall_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Recall of each class in each run; the best is marked where the runs differ."""
    rows = []
    for label, name in enumerate(comparison.dataset.classes):
        own = comparison.right[comparison.labels == label]
        if len(own):
            shares = own.mean(axis=0)
            best = [bool(share == shares.max() > shares.min()) for share in shares]
            cells = list(zip(map(percent, shares.tolist()), best, strict=True))
            rows.append({"name": shown(name), "images": len(own), "cells": cells})
    return rows


def _recipe_rows(sides: list[Side]) -> list[tuple[str, list[str]]]:
    """Fields of the recipe in which any run differs from the first."""
    differences = [compare_runs(sides[0].run.path, side.run.path) for side in sides[1:]]
    names = {name: None for found in differences for name in found if name.startswith("recipe.")}
    rows = []
    for name in names:
        own = next(found[name][0] for found in differences if name in found)
        values = [own, *(found[name][1] if name in found else own for found in differences)]
        rows.append((name.removeprefix("recipe."), ["" if value is None else str(value) for value in values]))
    return rows
