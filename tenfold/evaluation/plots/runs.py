"""Many runs side by side."""

from collections.abc import Sequence
from itertools import cycle
from typing import Any

from matplotlib.figure import Figure

from tenfold.evaluation.metrics import shown
from tenfold.evaluation.plots.style import BLUE, FAINT, GREEN, ORANGE, VERMILLION, new_figure, percent, styled


@styled()
def accuracy_and_time(rows: Sequence[dict[str, Any]], title: str = "Accuracy and time of every run") -> Figure:
    """One dot a run, one colour and mark a recipe, a bar for the mean's 95 % interval (`rows`: `bench.summarize`)."""
    figure = new_figure(6.4, 4.0, title)
    axes = figure.subplots()
    for row, colour, mark in zip(rows, cycle((BLUE, VERMILLION, GREEN, ORANGE)), cycle("osD^"), strict=False):
        seconds, accuracies = row["normalised_seconds"], row["accuracies"]
        label = f"{shown(row['recipe'])}: {row['mean']:.2%} (n = {row['n']})"
        axes.scatter(seconds, accuracies, s=18, color=colour, marker=mark, alpha=0.6, linewidths=0, label=label)
        low, high = row["ci95"] or (row["mean"], row["mean"])
        middle = row["normalised_seconds_median"]
        errors = [[row["mean"] - low], [high - row["mean"]]]
        axes.errorbar([middle], [row["mean"]], errors, color=colour, capsize=4, linewidth=1.5, marker="_")
    axes.set(xlabel="normalised seconds from start to scores", ylabel=f"{rows[0]['measured_on']} accuracy")
    axes.set_xlim(0, 1.05 * max(max(row["normalised_seconds"]) for row in rows))
    axes.yaxis.set_major_formatter(percent())
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.legend(loc="upper left")  # times begin at 0, so that this corner is empty
    return figure
