"""Accuracy of runs, and their time."""

from collections.abc import Sequence
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from tenfold.evaluation.metrics import shown
from tenfold.evaluation.plots.style import BLUE, FAINT, GREEN, ORANGE, VERMILLION, new_figure, percent, styled

LOOKS = tuple(zip((BLUE, VERMILLION, GREEN, ORANGE) * 4, "osD^sD^oD^os^osD", strict=True))
"""A colour and mark for each recipe: the same pair comes only after all sixteen."""
FAR = 10
"""Times farther apart than this factor are shown on a logarithmic axis."""


@styled()
def accuracy_and_time(rows: Sequence[dict[str, Any]], title: str = "Accuracy and time of every run") -> Figure:
    """One dot a run, one colour and mark a recipe, a bar for the mean's 95 % interval (`rows`: `summary.summarize`).

    Hollow dots are runs during which the machine's speed changed.
    """
    figure = new_figure(6.4, 4.0, title)
    axes = figure.subplots()
    normalised = all(row["normalised_seconds"]["total"] for row in rows)
    kind = "normalised_seconds" if normalised else "seconds"
    marks = [_draw_recipe(axes, row, kind, *look) for row, look in zip(rows, cycle(LOOKS), strict=False)]
    labels = [f"{shown(row['recipe'])}: {row['mean']:.2%} (n = {row['n']})" for row in rows]
    words = "normalised seconds" if normalised else "seconds on this machine,"
    axes.set(xlabel=f"{words} from start to scores", ylabel=f"{rows[0]['measured_on']} accuracy")
    _scale_time(axes, [row[kind]["total"] for row in rows])
    axes.yaxis.set_major_formatter(percent())
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.legend(marks, labels, loc="best")
    return figure


@styled()
def accuracies(rows: Sequence[tuple[str, float, tuple[float, float]]], title: str) -> Figure:
    """The accuracy of each run and its interval (`rows`: name, accuracy, low and high), the first on top."""
    figure = new_figure(6.4, 1.3 + 0.35 * len(rows), title)
    axes = figure.subplots()
    for number, (_, share, (low, high)) in enumerate(rows):
        errors = [[max(0.0, share - low)], [max(0.0, high - share)]]
        axes.errorbar([share], [number], xerr=errors, color=BLUE, marker="o", capsize=4, linewidth=1.5)
    axes.set_yticks(range(len(rows)), [shown(name, 40) for name, *_ in rows])
    axes.set(xlabel="test accuracy, with its 95 % interval", ylim=(len(rows) - 0.5, -0.5))
    axes.xaxis.set_major_formatter(percent())
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    return figure


def _draw_recipe(axes: Axes, row: dict[str, Any], kind: str, colour: str, mark: str) -> Line2D:
    """A recipe's dots and interval; what stands for it in the legend."""
    for steady in (True, False):
        runs = [run for run in row["runs"] if run["steady"] == steady]
        axes.scatter(
            [run[kind] for run in runs],
            [run["accuracy"] for run in runs],
            s=18,
            marker=mark,
            alpha=0.6,
            facecolors=colour if steady else "none",
            edgecolors="none" if steady else colour,
        )
    if row["ci95"]:
        low, high = row["ci95"]
        errors = [[row["mean"] - low], [high - row["mean"]]]
        middle = row[kind]["total"]["median"]
        axes.errorbar([middle], [row["mean"]], errors, color=colour, capsize=4, linewidth=1.5, marker="_")
    # by hand, since Matplotlib leaves out labels that begin with _
    return Line2D([], [], color=colour, marker=mark, linestyle="none", alpha=0.6)


def _scale_time(axes: Axes, totals: Sequence[dict[str, float]]) -> None:
    """From 0 on, or logarithmic where the recipes' times lie far apart."""
    least, most = min(total["min"] for total in totals), max(total["max"] for total in totals)
    if most <= FAR * least:
        axes.set_xlim(0, 1.05 * most)
        return
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:,g}"))  # else it is mathematics
    axes.xaxis.set_minor_formatter(NullFormatter())
