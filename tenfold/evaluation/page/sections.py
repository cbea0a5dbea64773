"""The contents of each section of a run's page, as plain values for the template.

Legend: N images, K classes.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from tenfold.console import percent as format_percent
from tenfold.evaluation import metrics
from tenfold.evaluation.calibration import Calibration, calibration_in, temperature_message, threshold_message
from tenfold.evaluation.metrics import Reliability, shown
from tenfold.evaluation.page.charts import Axis, Line, chart, plain, short_percent, span, thin
from tenfold.evaluation.rejection import distance_message, rejection_in

if TYPE_CHECKING:
    import pandas as pd

MOST_CLASSES = 30
"""Of a confusion matrix that is shown whole."""
_MOST_CONFUSIONS = 12

Facts = list[tuple[str, str]]


def percent(share: float | None, digits: int = 2) -> str:
    """A share as a percentage, see `console.percent`; a dash where there is none."""
    return "–" if share is None else format_percent(share, digits)


def headline(scores: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The numbers at the top: name, value, note."""
    low, high = scores["test_accuracy_interval"]
    wrong = round((1 - scores["test_accuracy"]) * scores["test_images"])
    rows = [
        (
            "Test accuracy",
            percent(scores["test_accuracy"]),
            f"95 % interval: {percent(low, 1)} to {percent(high, 1)}",
        ),
    ]
    if scores["test_accuracy_single_view"] != scores["test_accuracy"]:
        single = percent(scores["test_accuracy_single_view"])
        rows.append(("Without TTA", single, "as exported; above, test-time views are averaged"))
    if scores["test_accuracy_top5"] is not None:
        rows.append(("Top-5 accuracy", percent(scores["test_accuracy_top5"]), "the true class is among the best five"))
    if "balanced_accuracy" in scores:
        low, high = scores["balanced_accuracy_interval"]
        note = f"each class counts alike; 95 % interval: {percent(low, 1)} to {percent(high, 1)}"
        rows.append(("Balanced accuracy", percent(scores["balanced_accuracy"]), note))
        rows.append(("Macro F1", percent(scores["macro_f1"]), "mean F1 of the classes"))
    rows.append(("Mistakes", f"{wrong:,}", f"of {scores['test_images']:,} test images"))
    rows.append(("Cross-entropy", f"{scores['test_cross_entropy']:.4f}", f"loss as trained: {scores['test_loss']:.4f}"))
    rows.append(("Calibration error", percent(scores["ece"]), "ECE: mean gap between confidence and accuracy"))
    if scores["val_accuracy"] is not None:
        without = scores.get("val_accuracy_single_view")  # results of before have none
        views = "" if without in (None, scores["val_accuracy"]) else f"; {percent(without)} without TTA"
        rows.append(("Validation accuracy", percent(scores["val_accuracy"]), f"on held-out training images{views}"))
    if "train_seconds" in scores:
        total = f"{scores['total_seconds']:.1f} s from start to scores" if "total_seconds" in scores else ""
        rows.append(("Training", f"{scores['train_seconds']:.1f} s", total))
    return rows


def matrix_rows(matrix: np.ndarray) -> list[list[dict[str, Any]]] | None:
    """Cells of the confusion matrix with the style of their shade; None for more than 30 classes."""
    if len(matrix) > MOST_CLASSES:
        return None
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    wrong = np.where(np.eye(len(matrix), dtype=bool), 0, shares)
    shades = np.ceil(5 * wrong / max(0.05, wrong.max()) - 1e-9).astype(int)  # the largest is 5, whatever the rounding
    return [
        [
            {
                "truth": truth,
                "predicted": predicted,
                "count": int(count),
                "style": "right" if truth == predicted else f"s{shades[truth, predicted]}",
            }
            for predicted, count in enumerate(row)
        ]
        for truth, row in enumerate(matrix)
    ]


def confusion_rows(matrix: np.ndarray) -> list[dict[str, Any]]:
    """The largest cells off the diagonal."""
    rows = matrix.sum(axis=1)
    return [
        {"truth": truth, "predicted": predicted, "count": count, "share": count / rows[truth]}
        for truth, predicted, count in metrics.top_confusions(matrix, _MOST_CONFUSIONS)
    ]


def class_rows(per_class: "pd.DataFrame") -> list[dict[str, Any]]:
    """The table of `metrics.per_class`, row by row; scores are None for a class that no image is of."""
    first_summary = len(per_class) - len(metrics.SUMMARY_ROWS)
    return [
        row | {"name": shown(str(row["class"])), "summary": number >= first_summary}
        for number, row in enumerate(metrics.to_records(per_class))
    ]


def curves(epochs: "pd.DataFrame", steps: "pd.DataFrame") -> list[tuple[str, Markup]]:
    """Loss and accuracy while training: metrics.csv and steps.csv; nothing of a run that took no step."""
    drawings: list[tuple[str, Markup]] = []
    if epochs.empty:
        return drawings
    for quantity, to_text, most in (("loss", plain, np.inf), ("accuracy", short_percent, 1.0)):
        ends = epochs["epoch"].to_numpy(float)
        middles = (ends + np.r_[0, ends[:-1]]) / 2
        x, y = thin(steps["epoch"].to_numpy(float), steps[quantity].to_numpy(float))
        lines = [Line(x, y, "training batches", "faint")]
        lines.append(
            Line(middles, epochs[f"train_{quantity}"].to_numpy(float), "training, mean of epoch", "a", dots=True)
        )
        if epochs[f"val_{quantity}"].notna().any():
            lines.append(Line(ends, epochs[f"val_{quantity}"].to_numpy(float), "validation", "b", dots=True))
        across = Axis("epoch", 0, max([*ends, *x], default=1), plain)
        up = span(
            [np.quantile(y, [0.005, 0.995]) if len(y) else y, *(line.y for line in lines[1:])], quantity, to_text, most
        )
        drawings.append((quantity.capitalize(), chart(lines, across, up, f"{quantity} by epoch")))
    return drawings


def reliability_chart(before: Reliability, after: Reliability | None) -> Markup:
    """Accuracy by confidence, without TTA."""
    lines = [Line(np.array([0, 1]), np.array([0, 1]), "", "dotted")]
    for table, label, style in ((before, "as trained", "a"), (after, "after temperature scaling", "b")):
        if table is not None:
            some = table.images > 0
            lines.append(Line(table.confidence[some], table.accuracy[some], label, style, dots=True))
    across, up = Axis("confidence", 0, 1, short_percent), Axis("accuracy", 0, 1, short_percent)
    return chart(lines, across, up, "Accuracy by confidence")


def risk_coverage_chart(confidence: np.ndarray, correct: np.ndarray, calibration: Calibration | None) -> Markup:
    """Risk–coverage curve: error when only the most confident predictions are kept (El-Yaniv and Wiener, 2010)."""
    order = np.argsort(-confidence, kind="stable")
    errors = np.cumsum(~correct[order]) / np.arange(1, len(order) + 1)
    coverage = np.arange(1, len(order) + 1) / len(order)
    lines = [Line(*thin(coverage, errors), "error of the most confident predictions", "a")]
    if calibration and calibration.threshold is not None:
        spot = np.array([calibration.coverage]), np.array([calibration.error])
        lines.append(Line(*spot, "at the threshold", "b", dots=True))
    up = Axis("error", 0, max(0.02, float(errors.max())), short_percent)
    return chart(lines, Axis("coverage, most confident first", 0, 1, short_percent), up, "Error by coverage")


def calibration_text(scores: dict[str, Any]) -> list[str]:
    """Explains the calibration figures."""
    lean = (
        f"Without TTA, the expected calibration error is {percent(scores['ece_single_view'])}. Dots above the "
        "diagonal: the model is underconfident; below it: overconfident."
    )
    found = calibration_in(scores)
    if found is None:
        advice = "With tenfold train --val-size, a temperature and a threshold are fitted on held-out images."
        return [lean, f"This run has no validation images, so nothing was fitted. {advice}"]
    errors = f"{percent(found.ece_before)} to {percent(found.ece_after)}"
    losses = f"{_nats(found.cross_entropy_before)} to {_nats(found.cross_entropy_after)}"
    if not found.fitted:
        return [lean, f"{temperature_message(found).capitalize()}.", _bound_text(found)]
    fitted = (
        f"Temperature {found.temperature:.3f}, fitted on {found.images:,} validation images, changes "
        f"the calibration error on the test images from {errors} and their cross-entropy from {losses}."
    )
    return [lean, fitted, _bound_text(found)]


def _nats(loss: float | None) -> str:
    return "–" if loss is None else f"{loss:.4f}"


def _bound_text(found: Calibration) -> str:
    bound = f"Error bound {100 * found.target_error:.3g} %"
    if found.threshold is None:
        return f"{bound}: {threshold_message(found)}."
    low, high = (percent(limit) for limit in found.error_interval or (None, None))
    return (
        f"{bound}, with {percent(found.confidence, 0)} confidence: reject predictions with a probability below "
        f"{found.threshold:.4f}. The coverage on the test images is then {percent(found.coverage, 1)}, and the "
        f"error of the predictions kept {percent(found.error)} (95 % interval {low} to {high})."
    )


def rejection_text(scores: dict[str, Any]) -> list[str]:
    """Explains the distance and its threshold."""
    found = rejection_in(scores)
    if found is None:
        return ["No distance is fitted yet: tenfold evaluate RUN adds it."]
    meaning = (
        "The distance says how unlike the training images an image is to the network. With predict --reject, images "
        "beyond its threshold get no label, whatever the confidence."
    )
    if found.threshold is None:
        return [meaning, f"{distance_message(found).capitalize()}."]
    low, high = (percent(limit, 1) for limit in found.test_interval or (None, None))
    return [
        meaning,
        f"Threshold {found.threshold:.4g}, fitted on {found.images:,} validation images so that, with "
        f"{percent(found.confidence, 0)} confidence, it rejects at most {percent(found.most_rejected, 0)} of known "
        f"images: {found.test_rejected:,} of {found.test_images:,} test images (95 % interval {low} to {high}).",
    ]


def rejection_rows(scores: dict[str, Any]) -> list[tuple[str, ...]]:
    """Of each kind of unknown images: name, number, AUROC and FPR95 by distance and by confidence, share rejected."""
    found = rejection_in(scores)
    return [
        (
            kind,
            f"{one.images:,}",
            f"{one.auroc:.3f}",
            percent(one.fpr95, 1),
            f"{one.confidence_auroc:.3f}",
            percent(one.confidence_fpr95, 1),
            percent(one.rejected, 1),
        )
        for kind, one in (found.unknown.items() if found else ())
    ]


def facts(value: dict[str, Any], prefix: str = "") -> Facts:
    """A JSON object as rows of a table: nested names with dots, lists one line, what is null left out."""
    rows: Facts = []
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, dict):
            rows += facts(item, f"{name}.")
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            for number, part in enumerate(item, start=1):
                rows += facts(part, f"{name}.{number}.")
        elif item is not None:
            rows.append((name, "; ".join(map(format_value, item)) if isinstance(item, list) else format_value(item)))
    return rows


def format_value(value: Any) -> str:
    """A JSON value as text for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) and math.isfinite(value) else str(value)


def image_values(
    numbers: Sequence[int], sheet: dict[int, int], predictions: "pd.DataFrame", names: Sequence[str]
) -> list[dict[str, Any]]:
    """Those of the images `numbers` that are on the sheet, as the template shows them."""
    columns = (predictions[name].to_numpy() for name in ("true", "predicted", "probability", "correct"))
    true, predicted, probability, correct = columns
    return [
        {
            "sheet": sheet[number],
            "name": names[number],
            "truth": shown(str(true[number])),
            "predicted": shown(str(predicted[number])),
            "confidence": float(probability[number]),
            "right": bool(correct[number]),
        }
        for number in numbers
        if number in sheet
    ]
