"""Scores → plots and a page: the `plots/` and `report.html` of a run directory."""

import math
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tenfold import notebook
from tenfold.console import plural, progress
from tenfold.data.corrections import CORRECTIONS
from tenfold.data.dataset import Dataset
from tenfold.evaluation import metrics, plots
from tenfold.evaluation.audit import Subject, read_audit
from tenfold.evaluation.calibration import Calibration, calibration_in
from tenfold.evaluation.evaluate import Evaluation, require_own, to_csv
from tenfold.evaluation.findings import AuditParts
from tenfold.evaluation.metrics import shown
from tenfold.evaluation.page import choice, picture, report_page, sections, trust_section
from tenfold.evaluation.page.review import ISSUES, MISTAKES, issue_doubts, mistake_doubts, review_data
from tenfold.files import note_own
from tenfold.training.recipe import Recipe
from tenfold.training.reproduction import format_stop, made_in, reproduction
from tenfold.training.run import Run
from tenfold.training.split_file import count_held_out
from tenfold.training.target_error import target_error_of
from tenfold.training.weights import WEIGHTS

REPORT, PER_CLASS = "report.html", "per_class.csv"
_SECTIONS = (
    ("scores", "Metrics"),
    ("confusion", "Confusion matrix"),
    ("mistakes", "Mistakes"),
    ("classes", "Per-class metrics"),
    ("first", "First images"),
    ("curves", "Training"),
    ("calibration", "Calibration"),
    ("unknown", "Unknown images"),
    ("audit", "Audit"),
    ("review", "Review labels"),
    ("model", "Model"),
    ("environment", "Environment"),
    ("reproduce", "Reproduce"),
)


@dataclass(frozen=True, repr=False)
class Report:
    """A run's page, which needs no other file (`path`), its plots and its table of classes.

    `open` and `Path` take it for its page. In a notebook it shows the plots.
    """

    path: Path
    plots: tuple[Path, ...]
    per_class: Path

    def __repr__(self) -> str:
        return f"Report({str(self.path)!r}, {len(self.plots)} plots)"

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def files(self) -> tuple[Path, ...]:
        """All that was written, the page last."""
        return (*self.plots, self.per_class, self.path)

    def _repr_html_(self) -> str:
        return notebook.images_html((plot.stem, plot.read_bytes()) for plot in self.plots)


def write_report(run: Run, dataset: Dataset, evaluation: Evaluation, audit: AuditParts | None = None) -> Report:
    """Write plots/*.png, per_class.csv and report.html of a scored run, and add them to the manifest.

    audit: where the caller knows it; by default what the run keeps. The caller owns the run's lock. Raises `ModelError`
    where a file that it needs is damaged, `StorageError`, and `UsageError` for scores of other data.
    """
    require_own(run, evaluation)
    results = run.require_scores()
    run.verify("results.json", "metrics.csv", "steps.csv")
    known = Known(run, dataset, evaluation, results)
    contents: dict[str, str | bytes] = {}
    with progress("report", 7) as bar:
        for stem, figure in _figures(known):
            contents[f"plots/{stem}.png"] = plots.to_png(figure)
            bar(1, note=stem)
        contents |= {PER_CLASS: to_csv(known.per_class.reset_index()), REPORT: _page(known, audit)}
        bar(1, note=REPORT)
    run.rewrite_in_manifest(contents)
    *drawn, table, page = (run.path / name for name in contents)
    for plot in drawn:
        note_own(plot)
    return Report(page, tuple(drawn), table)


@dataclass(frozen=True)
class Known:
    """Everything that a report shows."""

    run: Run
    dataset: Dataset
    evaluation: Evaluation
    results: dict[str, Any]

    @property
    def title(self) -> str:
        """Recipe, data and seed."""
        return f"{self.results['recipe']} on {self.dataset.name}, seed {self.results['seed']}"

    @property
    def predicted(self) -> np.ndarray:
        """int64 N, test-time views averaged."""
        return self.evaluation.logits.argmax(axis=1)

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """See `metrics.predictions`."""
        return self.evaluation.predictions()

    @cached_property
    def per_class(self) -> pd.DataFrame:
        """See `metrics.per_class`."""
        return self.evaluation.per_class()

    @cached_property
    def log(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """metrics.csv and steps.csv."""
        return pd.read_csv(self.run.path / "metrics.csv"), pd.read_csv(self.run.path / "steps.csv")

    @cached_property
    def calibration(self) -> Calibration | None:
        """None without validation images."""
        return calibration_in(self.results)

    @cached_property
    def reliability(self) -> tuple[metrics.Reliability, metrics.Reliability | None]:
        """Without TTA: as trained, and after temperature scaling where a temperature was fitted."""
        test, found = self.evaluation.test, self.calibration
        before = metrics.reliability(test.single, test.labels)
        scaled = test.single / found.temperature if found and found.fitted else None
        return before, None if scaled is None else metrics.reliability(scaled, test.labels)


def _untrained(recipe: Recipe) -> str:
    """Why a run has no curves."""
    if recipe.fine_tune == "off":
        return "The last layer is a logistic regression on the pretrained network's features; nothing else was trained."
    return "No step was taken."


# --- plots ---


def _figures(known: Known) -> list[tuple[str, Figure]]:
    name, classes, images = known.title, known.dataset.classes, known.dataset.test.images
    labels, first = known.evaluation.labels, slice(plots.GALLERY_IMAGES)
    confidence = known.predictions["probability"].to_numpy()
    title = f"The first test images: {name}"
    epochs, steps = known.log
    curves = [] if epochs.empty else [("history", plots.history(epochs, steps, name, known.results["test_accuracy"]))]
    return [
        *curves,
        (
            "gallery",
            plots.gallery(images[first], labels[first], known.predicted[first], confidence[first], classes, title),
        ),
        ("misclassified", plots.misclassified(images, known.predictions, classes, f"Most confident mistakes: {name}")),
        ("confusion", plots.confusion(known.evaluation.confusion_matrix(), classes, f"Confusion matrix: {name}")),
        ("per_class", plots.class_scores(known.per_class, f"Per-class metrics: {name}")),
        ("reliability", plots.reliability(*known.reliability, f"Reliability diagram: {name}")),
    ]


# --- the page ---


def _page(known: Known, audit: AuditParts | None) -> str:
    frame, labels = known.predictions, known.evaluation.labels
    images, confidence = known.dataset.test.images, frame["probability"].to_numpy()
    most = picture.most_images(*images.shape[1:3])
    numbers = choice.choose(labels, known.predicted, confidence, frame["loss"].to_numpy(), most)
    names = name_images(known.evaluation.names, len(labels))
    data: dict[str, Any] = {
        "classes": [shown(name) for name in known.dataset.classes],
        "images": _records(known, numbers, names),
    }
    found = audit or read_audit(Subject(known.run, known.dataset, known.evaluation))
    audited, more_style = trust_section(found, known.dataset)
    doubts = [*issue_doubts(audited), *mistake_doubts(numbers, labels, known.predicted, confidence)]
    data["review"] = review_data(known.dataset, known.run.digest(WEIGHTS) or "", doubts)
    values = _values(known, numbers, names) | {"audit": audited, "review_count": len(data["review"]["items"])}
    values["review_earlier"] = bool(data["review"]["earlier"])
    return report_page(values, f"{picture.make_sheet(images, numbers)}\n{more_style}", data)


def name_images(files: np.ndarray | None, count: int) -> list[str]:
    """Names of the test images: their files where they are from a folder, else their numbers."""
    if files is None:
        return [f"test image {number}" for number in range(count)]
    return [shown(str(name), 120) for name in files]


def _records(known: Known, numbers: np.ndarray, names: list[str]) -> list[list[Any]]:
    """The data of each image on the sheet for the page's script, in order."""
    labels, predicted = known.evaluation.labels, known.predicted
    confidence = known.predictions["probability"].to_numpy()
    return [[int(labels[n]), int(predicted[n]), cut(confidence[n]), names[n]] for n in numbers.tolist()]


def cut(share: float) -> float:
    """Six digits of a probability, rounded down, so that only exactly 1 is shown as 1."""
    return math.floor(1e6 * share) / 1e6


def _values(known: Known, numbers: np.ndarray, names: list[str]) -> dict[str, Any]:
    frame, results, matrix = known.predictions, known.results, known.evaluation.confusion_matrix()
    wrong, place = frame[~frame["correct"]], {int(number): i for i, number in enumerate(numbers)}
    here = int((~frame["correct"].to_numpy()[numbers]).sum())
    confident = wrong.sort_values("probability", ascending=False, kind="stable").index[: choice.FIRST]

    def show(chosen: Any) -> list[dict[str, Any]]:
        return sections.image_values([int(n) for n in chosen], place, frame, names)

    first = show(range(min(choice.FIRST, len(frame))))
    return {
        "title": known.title,
        "subtitle": f"{plural(results['test_images'], 'test image')} of {plural(len(known.dataset.classes), 'class')}",
        "sections": _SECTIONS,
        "headline": sections.headline(results),
        "corrections": [f"{s[0].upper()}{s[1:]}." for s in _corrections(known)],
        "unlearned": [shown(name) for name in results.get("unlearned_classes", [])],
        "classes": [shown(name) for name in known.dataset.classes],
        "matrix": sections.matrix_rows(matrix),
        "confusions": sections.confusion_rows(matrix),
        "mistakes_here": here,
        "mistakes_total": len(wrong),
        "mistakes_left_out": here < len(wrong),
        "confident_mistakes": show(confident),
        "per_class": sections.class_rows(known.per_class),
        "absent_note": metrics.absent_note(known.evaluation.absent_classes()),
        "class_images": _class_images(known, show),
        "first": first,
        "first_right": sum(image["right"] for image in first),
        "curves": sections.curves(*known.log),
        "untrained": _untrained(known.run.recipe),
        "calibration_text": sections.calibration_text(results),
        "calibration_charts": _calibration_charts(known),
        "rejection_text": sections.rejection_text(results),
        "rejection_rows": sections.rejection_rows(results),
        "model": _model(known),
        "recipe": sections.facts(known.run.read_json("recipe.json")),
        "environment": _environment(known),
        "command": _command(known),
        "review_command": _command(known, Path(CORRECTIONS)),
        "review_reasons": [(why, f"label issues: {split}") for split, why in ISSUES.items()] + [(MISTAKES, MISTAKES)],
        "reproduce_note": format_stop(known.run) or _reproduce_note(known),
    }


def _corrections(known: Known) -> list[str]:
    applied = known.dataset.corrections
    return applied.sentences() if applied else []


def _class_images(known: Known, show: Any) -> list[dict[str, Any]]:
    """Of each class, lowest F1 first: the most confident correct images, and those with the largest loss."""
    frame, labels, groups = known.predictions, known.evaluation.labels, []
    f1 = known.per_class["f1"].to_numpy()[: len(known.dataset.classes)]
    for label in np.argsort(f1, kind="stable"):
        own = frame[labels == label]
        confident = own[own["correct"]].sort_values("probability", ascending=False, kind="stable").index[: choice.EACH]
        worst = own.sort_values("loss", ascending=False, kind="stable").index[: choice.EACH]
        name = shown(known.dataset.classes[label])
        if len(own):
            groups.append({"name": name, "f1": float(f1[label]), "confident": show(confident), "worst": show(worst)})
    return groups


def _calibration_charts(known: Known) -> list[tuple[str, Any]]:
    test, calibration = known.evaluation.test, known.calibration
    temperature = calibration.temperature if calibration else 1.0
    confidence = metrics.probabilities(test.single, temperature).max(axis=1)
    correct = test.single.argmax(axis=1) == test.labels
    return [
        ("Reliability diagram", sections.reliability_chart(*known.reliability)),
        ("Risk–coverage curve", sections.risk_coverage_chart(confidence, correct, calibration)),
    ]


def _model(known: Known) -> sections.Facts:
    description, recipe = known.run.description, known.run.recipe
    size, weights = description.size, known.run.path / "model.safetensors"
    return [
        ("Network", recipe.network.name),
        ("Parameters", f"{known.results['parameters']:,}"),
        ("Weights", f"{weights.stat().st_size / 1e6:.1f} MB, SHA-256 {known.run.digest(weights.name)}"),
        ("Input", f"{size} × {size} pixels; images of other sizes: {description.resize}"),
        (
            "Recipe",
            f"{recipe.name}, {recipe.trained_epochs:g} epochs, batches of {recipe.batch_size}, {recipe.optimizer}",
        ),
        ("Test-time views", _views(recipe)),
        ("Validation images", f"{count_held_out(known.run):,}"),
    ]


def _views(recipe: Recipe) -> str:
    if recipe.tta == "one" or recipe.tta_fraction == 1:
        return recipe.tta
    return f"{recipe.tta}, for {recipe.tta_fraction:.0%} of the images, the least confident ones"


def _environment(known: Known) -> sections.Facts:
    """Without the path of the image folder, which is private where the page is shared."""
    env = {name: value for name, value in known.run.env.items() if name != "folder"}
    skipped = {"images that could not be read": known.dataset.skipped} if known.dataset.skipped else {}
    return sections.facts(env | {"data": known.dataset.name} | skipped)


def _command(known: Known, corrections: Path | None = None) -> str:
    """The command that trains the run again; corrections: a new file of them, instead of the run's own."""
    run, dataset, results = known.run, known.dataset, known.results
    folder, base = run.path.resolve(), made_in(run.path, results["run"])
    own = folder / CORRECTIONS if dataset.corrections else None

    def name(path: Path) -> str:
        return os.path.relpath(path, base) if path.is_absolute() else str(path)

    asked = run.recipe, results["seed"], dataset.name, dataset.origin, target_error_of(run)
    return reproduction(*asked, corrections or own, folder / "recipe.json", name)


def _reproduce_note(known: Known) -> str:
    folder = known.run.path.resolve()
    here = shown(os.path.relpath(folder, made_in(known.run.path, known.results["run"])))
    return (
        "On the same machine with the same versions and number of threads, the weights are bit-identical: compare "
        f"their SHA-256 above. Call it in the folder from which this run is {here}: its paths begin there."
    )
