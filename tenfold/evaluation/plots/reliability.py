"""Reliability diagram: accuracy by confidence."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tenfold.evaluation.metrics import Reliability
from tenfold.evaluation.plots.style import BLUE, FAINT, MUTED, VERMILLION, new_figure, percent, styled


@styled()
def reliability(before: Reliability, after: Reliability | None, title: str) -> Figure:
    """Accuracy against confidence, bin by bin, and below it the number of images per bin.

    `before` is the model as trained, `after` the same after temperature scaling. Dots on the diagonal: calibrated;
    above it: underconfident.
    """
    figure = new_figure(5.2, 5.0, title)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    top.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=":")
    _draw(top, bottom, before, BLUE, "o", "as trained")
    if after is not None:
        _draw(top, bottom, after, VERMILLION, "s", "after temperature scaling")
    top.set(ylabel="accuracy", ylim=(-0.02, 1.02))
    bottom.set(xlabel="confidence (top probability)", ylabel="images", xlim=(0, 1))
    for axis in (top.xaxis, top.yaxis, bottom.xaxis):
        axis.set_major_formatter(percent())
    top.grid(color=FAINT, linewidth=0.5)
    top.legend(loc="upper left")
    return figure


def _draw(top: Axes, bottom: Axes, table: Reliability, colour: str, mark: str, label: str) -> None:
    some = table.images > 0
    top.plot(table.confidence[some], table.accuracy[some], color=colour, marker=mark, markersize=5, label=label)
    edges = np.linspace(0, 1, len(table.images) + 1)
    style: dict[str, Any] = {"color": colour, "linewidth": 1.4}
    bottom.stairs(table.images, edges, **style)
