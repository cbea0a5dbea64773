"""Saliency maps of one image. Legend: S×S pixels."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tenfold.console import percent
from tenfold.evaluation.metrics import shown
from tenfold.evaluation.plots.style import BLUE, INK, MUTED, fitting, new_figure, styled

_CELL = 136  # points across an image


@styled()
def explanation(
    panels: Sequence[tuple[str, np.ndarray]], predictions: Sequence[tuple[str, float]], title: str, note: str
) -> Figure:
    """`panels`, each with its name, uint8 S×S×3, side by side; then `predictions`, class and probability, as bars."""
    figure = new_figure(2.5 * (len(panels) + 1) + 0.3, 3.2, title, note)
    *cells, last = figure.subplots(1, len(panels) + 1)
    for axes, (name, pixels) in zip(cells, panels, strict=True):
        axes.imshow(pixels, interpolation="nearest")
        axes.set_title(fitting(name, _CELL, 9), fontsize=9)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color=MUTED, linewidth=0.6)
    _draw_bars(last, predictions)
    return figure


def _draw_bars(axes: Axes, predictions: Sequence[tuple[str, float]]) -> None:
    rows = range(len(predictions))
    axes.barh(rows, [share for _, share in predictions], color=BLUE, height=0.55)
    axes.set_yticks(rows, [shown(name, 16) for name, _ in predictions])
    axes.set(xlim=(0, 1.25), xticks=[])
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    for row, (_, share) in enumerate(predictions):
        axes.text(share + 0.03, row, percent(share), va="center", fontsize=8, color=INK)
    axes.set_title("confidence", fontsize=9)
