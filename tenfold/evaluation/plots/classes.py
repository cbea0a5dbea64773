"""Confusion matrix and per-class metrics. Legend: K classes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from tenfold.evaluation.metrics import SUMMARY_ROWS, shown
from tenfold.evaluation.plots.style import BLUE, FAINT, INK, MOST_ROWS, ORANGE, new_figure, percent, styled

if TYPE_CHECKING:
    import pandas as pd


@styled()
def confusion(matrix: np.ndarray, classes: Sequence[str], title: str = "Confusion matrix") -> Figure:
    """Counts, true classes in rows; colour is the share of the row, orange where wrong.

    `matrix` int K×K, see `metrics.confusion_matrix`. The orange scale ends at the largest confusion (at 5 % at
    least), far below the diagonal, which has a pale blue scale of its own. Numbers up to 20 classes, names up to 60.
    """
    k = len(matrix)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    wrong = np.where(np.eye(k, dtype=bool), 0.0, shares)
    top = max(0.05, wrong.max())
    oranges = ScalarMappable(Normalize(0, top), "Oranges")
    colours = oranges.to_rgba(wrong)
    colours[wrong == 0] = 1.0  # white: no image
    np.einsum("iic->ic", colours)[:] = matplotlib.colormaps["Blues"](0.45 * np.diag(shares))
    side = float(np.clip(0.5 * k + 1.8, 4.5, 11.0))
    figure = new_figure(side + 0.6, side, title)
    axes = figure.subplots()
    axes.imshow(colours, interpolation="nearest")
    axes.set_anchor("N")
    _name_sides(axes, classes)
    if k <= 20:
        _write_counts(axes, matrix, dark=wrong > 0.6 * top)
    bar = figure.colorbar(oranges, ax=axes, shrink=0.5, aspect=25, format=percent())
    bar.set_label("share of the true class, where wrong", fontsize=8)
    bar.outline.set_visible(False)
    return figure


def _name_sides(axes: Axes, classes: Sequence[str]) -> None:
    axes.set(xlabel="predicted", ylabel="true")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if len(classes) > 60:
        return
    names, places = [shown(name, 20) for name in classes], np.arange(len(classes))
    size = 8 if len(classes) <= 30 else 5
    axes.set_xticks(places, names, rotation=45, ha="right", rotation_mode="anchor", fontsize=size)
    axes.set_yticks(places, names, fontsize=size)


def _write_counts(axes: Axes, matrix: np.ndarray, dark: np.ndarray) -> None:
    for row, column in np.argwhere(matrix):  # an empty cell reads better than a 0
        text = axes.text(column, row, f"{matrix[row, column]}", ha="center", va="center")
        text.set(color="white" if dark[row, column] else INK, fontweight="bold" if row == column else "normal")
        text.set_fontsize(8 if len(matrix) <= 12 else 6)


@styled()
def class_scores(frame: "pd.DataFrame", title: str = "Per-class metrics") -> Figure:
    """Precision, recall and F1 of each class as dots, the worst F1 at the foot; the 30 worst of more classes.

    A line is the 95 % interval of the recall. Classes that no image is of are left out. `frame` is that of
    `metrics.per_class`.
    """
    ranked = frame.iloc[: -len(SUMMARY_ROWS)].dropna().sort_values("f1", kind="stable")
    rows, k = ranked.head(MOST_ROWS), len(ranked)
    note = f"the {len(rows)} of {k:,} classes with the lowest F1" if len(rows) < k else ""
    figure = new_figure(6.5, 0.27 * len(rows) + 1.3, title, note)
    axes, places = figure.subplots(), np.arange(len(rows))
    axes.hlines(places, rows["recall_low"], rows["recall_high"], color=BLUE, linewidth=1, alpha=0.4, zorder=1)
    for column, marker, colour in (("precision", "<", ORANGE), ("recall", ">", BLUE), ("f1", "o", INK)):
        axes.scatter(rows[column], places, marker=marker, s=26, color=colour, label=column.replace("f1", "F1"))
    axes.set_yticks(places, [shown(str(name), 24) for name in rows.index])
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, -0.02), min(high, 1.02))  # no shares below none or above all
    axes.xaxis.set_major_formatter(percent())
    axes.grid(axis="x", color=FAINT, linewidth=0.5)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2, handletextpad=0.1)
    return figure
