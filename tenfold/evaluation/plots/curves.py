"""Loss and accuracy while training."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tenfold import console
from tenfold.evaluation.plots.style import BLUE, FAINT, GREEN, MUTED, VERMILLION, new_figure, percent, styled

if TYPE_CHECKING:
    import pandas as pd


@styled()
def history(epochs: "pd.DataFrame", steps: "pd.DataFrame", title: str, test_accuracy: float | None = None) -> Figure:
    """Loss and accuracy against epochs, side by side.

    `epochs` is `metrics.csv` (`epoch`, `stage`, `train_loss`, `train_accuracy`, `val_loss`, `val_accuracy`, NaN without
    validation data), `steps` is `steps.csv` (`epoch`, `loss`, `accuracy` of each training batch), or has no rows.
    A training value is the mean over an epoch, so it is drawn in the epoch's middle; a validation value at its end.
    """
    figure = new_figure(9.0, 3.6, title)
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        axes.set(title=quantity.capitalize(), xlabel="epoch")
        _draw_steps(axes, steps, quantity)
        _draw_epochs(axes, epochs, quantity)
        _draw_stages(axes, epochs)
        _fit_axes(axes, epochs, steps, quantity)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)  # within, it would cover a short run's curve
    figure.axes[1].yaxis.set_major_formatter(percent())
    if test_accuracy is not None:
        _mark_test(figure.axes[1], test_accuracy)
    return figure


def _draw_steps(axes: Axes, steps: "pd.DataFrame", quantity: str) -> None:
    if steps.empty:
        return
    axes.plot(steps["epoch"], steps[quantity], color=BLUE, alpha=0.2, linewidth=0.6, zorder=1)
    smooth = steps[quantity]
    for _ in range(2):  # a mean of means: a triangular window, smoother than a box of the same width
        smooth = smooth.rolling(max(1, len(steps) // 40), center=True, min_periods=1).mean()
    axes.plot(steps["epoch"], smooth, color=BLUE, linewidth=1.6, label="training batches, smoothed")


def _draw_epochs(axes: Axes, epochs: "pd.DataFrame", quantity: str) -> None:
    ends = epochs["epoch"]
    middles = (ends + ends.shift(fill_value=0)) / 2
    between = "none" if axes.lines else "-"  # the smoothed batches already join the means
    train, validation = epochs[f"train_{quantity}"], epochs[f"val_{quantity}"]
    lines = axes.plot(middles, train, color=BLUE, linestyle=between, label="training, mean of epoch")
    if validation.notna().any():
        lines += axes.plot(ends, validation, color=VERMILLION, label="validation")
    size = 5.0 if len(epochs) <= 20 else 4.0 if len(epochs) <= 50 else 2.5
    for line in lines:
        line.set(marker="o", markersize=size, markeredgecolor="white", markeredgewidth=0.6, linewidth=1.4)


def _draw_stages(axes: Axes, epochs: "pd.DataFrame") -> None:
    ends = epochs.groupby("stage")["epoch"].max()
    for stage, start in zip(ends.index[1:], ends.iloc[:-1], strict=True):
        axes.axvline(start, color=MUTED, linewidth=0.8, linestyle=":", zorder=0)
        text = axes.text(start, 1.01, f"stage {stage}", transform=axes.get_xaxis_transform())
        text.set(color=MUTED, fontsize=7, ha="center")


def _fit_axes(axes: Axes, epochs: "pd.DataFrame", steps: "pd.DataFrame", quantity: str) -> None:
    """Show every epoch's value and all batches but the most extreme 1 %."""
    values = epochs[[f"train_{quantity}", f"val_{quantity}"]].to_numpy(float).ravel()
    batches = steps[quantity][np.isfinite(steps[quantity])]
    values = np.append(values, batches.quantile([0.005, 0.995]))
    values = values[np.isfinite(values)]
    if len(values):
        room = 0.05 * (values.max() - values.min()) or 0.05
        top = values.max() + room
        # a share has no values above 1, and wants no ticks there
        axes.set_ylim(values.min() - room, min(top, 1 + 0.1 * room) if quantity == "accuracy" else top)
    axes.set_xlim(0, max([*epochs["epoch"], *steps["epoch"]], default=1) * 1.01)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.grid(axis="y", color=FAINT, linewidth=0.5)


def _mark_test(axes: Axes, test_accuracy: float) -> None:
    """Outside the axes, where no curve passes."""
    axes.set_ylim(
        min(axes.get_ylim()[0], test_accuracy - 0.02), max(axes.get_ylim()[1], min(1.0, test_accuracy + 0.02))
    )
    at_right = axes.get_yaxis_transform()
    axes.axhline(test_accuracy, color=GREEN, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1.5)
    axes.plot(1, test_accuracy, marker="D", markersize=5, color=GREEN, transform=at_right, clip_on=False)
    text = f"test\n{console.percent(test_accuracy, 2)}"
    axes.text(1.03, test_accuracy, text, transform=at_right, color=GREEN, va="center", fontweight="bold")
