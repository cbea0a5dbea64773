"""One image and where the network looks in it. Legend: S×S pixels."""

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
    pictures: Sequence[tuple[str, np.ndarray]], guesses: Sequence[tuple[str, float]], title: str, note: str
) -> Figure:
    """`pictures`, each with its name, uint8 S×S×3, side by side; then `guesses`, class and probability, as bars."""
    figure = new_figure(2.5 * (len(pictures) + 1) + 0.3, 3.2, title, note)
    *cells, last = figure.subplots(1, len(pictures) + 1)
    for axes, (name, pixels) in zip(cells, pictures, strict=True):
        axes.imshow(pixels, interpolation="nearest")
        axes.set_title(fitting(name, _CELL, 9), fontsize=9)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color=MUTED, linewidth=0.6)
    _draw_bars(last, guesses)
    return figure


def _draw_bars(axes: Axes, guesses: Sequence[tuple[str, float]]) -> None:
    rows = range(len(guesses))
    axes.barh(rows, [share for _, share in guesses], color=BLUE, height=0.55)
    axes.set_yticks(rows, [shown(name, 16) for name, _ in guesses])
    axes.set(xlim=(0, 1.25), xticks=[])
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    for row, (_, share) in enumerate(guesses):
        axes.text(share + 0.03, row, percent(share), va="center", fontsize=8, color=INK)
    axes.set_title("how sure it is", fontsize=9)
