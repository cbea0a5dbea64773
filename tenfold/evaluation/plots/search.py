"""A search over a recipe's fields: optimization history and parameter importance."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tenfold.console import plural
from tenfold.evaluation.metrics import shown
from tenfold.evaluation.plots.style import BLUE, FAINT, MUTED, VERMILLION, new_figure, percent, styled

_ABOVE_LEGEND = 24  # points between an axis and its title, with a legend of one line between them


@styled()
def search(row: dict[str, Any]) -> Figure:
    """Validation accuracy of every trial and the best so far; beside it the importance of each field (see `tune`)."""
    ended = f"{row['pruned']} pruned and {row['failed']} failed: their numbers are marked at the foot"
    figure = new_figure(9.0, 4.0, f"Search over {shown(row['recipe'])}: {plural(len(row['trials']), 'trial')}", ended)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_history(left, row["trials"], row["best"]["val_accuracy"], row["noise"])
    _draw_importances(right, row["importances"])
    # within, it would cover trials; at the figure's foot, the note
    left.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2, columnspacing=1.0)
    return figure


def _draw_history(axes: Axes, trials: Sequence[dict[str, Any]], best: float, noise: float) -> None:
    scores = [(i, trial["val_accuracy"]) for i, trial in enumerate(trials) if trial["state"] == "completed"]
    numbers, accuracies = zip(*scores, strict=True)
    axes.axhspan(best - noise, best, color=FAINT, alpha=0.6, linewidth=0, label="within noise of the best")
    axes.step(numbers, list(accumulate(accuracies, max)), where="post", color=MUTED, linewidth=1.0, label="best so far")
    axes.plot(numbers, accuracies, "o", color=BLUE, markersize=4, alpha=0.8, markeredgewidth=0, label="a trial")
    for state, mark, colour in (("pruned", "|", MUTED), ("failed", "x", VERMILLION)):
        places = [i for i, trial in enumerate(trials) if trial["state"] == state]
        foot = axes.get_xaxis_transform()
        axes.plot(places, [0.02] * len(places), mark, color=colour, markersize=5, transform=foot, label=f"_{state}")
    axes.set_title("Optimization history", pad=_ABOVE_LEGEND)
    axes.set(xlabel="trial", ylabel="validation accuracy", xlim=(-0.5, len(trials) - 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(percent())
    axes.grid(axis="y", color=FAINT, linewidth=0.6)


def _draw_importances(axes: Axes, importances: dict[str, float]) -> None:
    axes.set_title("Parameter importance", pad=_ABOVE_LEGEND)
    axes.set(xlabel="share of the variance explained")
    if not importances:
        axes.text(0.5, 0.5, "too few completed trials", transform=axes.transAxes, ha="center", color=MUTED)
        axes.set_axis_off()
        return
    names = list(reversed(importances))
    axes.barh(names, [importances[name] for name in names], color=BLUE, height=0.6)
    axes.xaxis.set_major_formatter(percent())
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.tick_params(axis="y", length=0)
