"""Values → Matplotlib figures, fit for a paper: `save` or `to_png` turns one into bytes.

No pyplot and no lasting change of rcParams: figures are made by hand, in a style of their own that no matplotlibrc
reaches. Class names are drawn literally (a `$` starts no formula), in an installed font that has their letters where
there is one; letters that no font has become boxes, silently.

Legend: N images, H×W pixels, K classes.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.textpath import TextToPath
from matplotlib.ticker import FuncFormatter, MaxNLocator

from tenfold.evaluation.metrics import SUMMARY_ROWS, shown
from tenfold.files import write_bytes

if TYPE_CHECKING:
    import pandas as pd

# Okabe and Ito's palette (2008), told apart with every common kind of colour blindness.
BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
INK, MUTED, FAINT = "#222222", "#6B6B6B", "#D4D4D4"
GALLERY_COLUMNS, GALLERY_IMAGES = 5, 25
MOST_ROWS = 30  # of figures that give each class one
_LINUX_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "Noto Sans Devanagari")
_OTHER_FONTS = ("PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Arial Unicode MS")
_TICK = {"color": MUTED, "labelcolor": INK, "labelsize": 8}
_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.titleweight": "bold",
    "font.size": 9,
    "legend.fontsize": 8,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "text.color": INK,
    "text.parse_math": False,
    **{f"{axis}tick.{key}": value for axis in "xy" for key, value in _TICK.items()},
}


@contextlib.contextmanager
def _style() -> Iterator[None]:
    installed = set(font_manager.get_font_names())
    fonts = ["DejaVu Sans", *(name for name in _LINUX_FONTS + _OTHER_FONTS if name in installed)]
    with matplotlib.style.context(["default", _STYLE, {"font.family": fonts}]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _figure(width: float, height: float, title: str, note: str = "") -> Figure:
    """An empty figure, in inches, with a title above and a note at its foot."""
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06))
    figure.suptitle(shown(title, 80), x=0.08 / width, ha="left")
    if note:
        figure.supxlabel(note, x=0.08 / width, ha="left", fontsize=8, color=MUTED)
    return figure


def _percent() -> FuncFormatter:
    return FuncFormatter(lambda share, _: f"{100 * share:.4g} %")


def to_png(figure: Figure, dpi: int = 200) -> bytes:
    """The figure as a PNG file; the same figure gives the same bytes (no date, no software version)."""
    buffer = io.BytesIO()
    with _style():
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write the figure to `path` as a PNG file, atomically. Raises `StorageError`."""
    write_bytes(path, to_png(figure))


# -- training history


@_style()
def history(epochs: "pd.DataFrame", steps: "pd.DataFrame", title: str, test_accuracy: float | None = None) -> Figure:
    """Loss and accuracy against epochs, side by side.

    `epochs` is `metrics.csv` (`epoch`, `stage`, `train_loss`, `train_accuracy`, `val_loss`, `val_accuracy`, NaN without
    validation data), `steps` is `steps.csv` (`epoch`, `loss`, `accuracy` of each training batch), or has no rows.
    A training value is the mean over an epoch, so it is drawn in the epoch's middle; a validation value at its end.
    """
    figure = _figure(9.0, 3.6, title)
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        axes.set(title=quantity.capitalize(), xlabel="epoch")
        _draw_steps(axes, steps, quantity)
        _draw_epochs(axes, epochs, quantity)
        _draw_stages(axes, epochs)
        _fit_axes(axes, epochs, steps, quantity)
    figure.axes[0].legend(loc="upper right")
    figure.axes[1].yaxis.set_major_formatter(_percent())
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
    """Show every epoch's value and all but the wildest hundredth of the batches."""
    values = epochs[[f"train_{quantity}", f"val_{quantity}"]].to_numpy(float).ravel()
    batches = steps[quantity][np.isfinite(steps[quantity])]
    values = np.append(values, batches.quantile([0.005, 0.995]))
    values = values[np.isfinite(values)]
    if len(values):
        room = 0.05 * (values.max() - values.min()) or 0.05
        axes.set_ylim(values.min() - room, values.max() + room)
    axes.set_xlim(0, max([*epochs["epoch"], *steps["epoch"]], default=1) * 1.01)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.grid(axis="y", color=FAINT, linewidth=0.5)


def _mark_test(axes: Axes, test_accuracy: float) -> None:
    """Outside the axes, where no curve passes."""
    axes.set_ylim(min(axes.get_ylim()[0], test_accuracy - 0.02), max(axes.get_ylim()[1], test_accuracy + 0.02))
    at_right = axes.get_yaxis_transform()
    axes.axhline(test_accuracy, color=GREEN, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1.5)
    axes.plot(1, test_accuracy, marker="D", markersize=5, color=GREEN, transform=at_right, clip_on=False)
    text = f"test\n{100 * test_accuracy:.2f} %"
    axes.text(1.03, test_accuracy, text, transform=at_right, color=GREEN, va="center", fontweight="bold")


# -- images


@_style()
def gallery(
    images: np.ndarray,
    true: np.ndarray,
    predicted: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    title: str,
    note: str | None = None,
) -> Figure:
    """The first 25 images in rows of five, each with its true class, the predicted one and that one's probability.

    `images` uint8 N×H×W×3; `true` and `predicted` N integers in [0, K). Right and wrong differ in mark (✓, ✗), frame
    (thin, thick and dashed) and colour. `note` is the line at the foot; by default the number of right ones.
    """
    images, true, predicted = images[:GALLERY_IMAGES], true[:GALLERY_IMAGES], predicted[:GALLERY_IMAGES]
    rows = max(1, -(-len(images) // GALLERY_COLUMNS))
    note = note or f"{(true == predicted).sum()} of {len(images)} right"
    figure = _figure(8.0, 1.95 * rows + 0.6, title, f"{note} · true class → predicted class, its probability")
    cells = figure.subplots(rows, GALLERY_COLUMNS, squeeze=False).ravel()
    for axes in cells[len(images) :]:
        axes.set_axis_off()
    for axes, image, is_, said, share in zip(cells, images, true, predicted, probabilities, strict=False):
        _draw_image(axes, image)
        _caption(axes, classes[is_], classes[said], float(share), right=bool(is_ == said))
    return figure


@_style()
def misclassified(images: np.ndarray, predictions: "pd.DataFrame", classes: Sequence[str], title: str) -> Figure:
    """A gallery of wrong answers, the surest first.

    `images` uint8 N×H×W×3, all those that the rows of `predictions` (see `metrics.predictions`) point into.
    """
    wrong = predictions[~predictions["correct"]].sort_values("probability", ascending=False, kind="stable")
    if wrong.empty:
        return _figure(8.0, 0.9, title, f"No mistakes among {len(predictions):,} images.")
    top, label_of = wrong.head(GALLERY_IMAGES), {name: label for label, name in enumerate(classes)}
    true, predicted = (top[column].map(label_of).to_numpy() for column in ("true", "predicted"))
    note = f"{len(top)} of {len(wrong):,} mistakes among {len(predictions):,} images, the surest first"
    return gallery(images[top["index"]], true, predicted, top["probability"].to_numpy(), classes, title, note)


def _draw_image(axes: Axes, image: np.ndarray) -> None:
    height, width = image.shape[:2]
    margin = 0.04 * max(height, width)  # so that the frame covers no pixel
    axes.imshow(image, interpolation="nearest")
    axes.set(xlim=(-0.5 - margin, width - 0.5 + margin), xticks=[])
    axes.set(ylim=(height - 0.5 + margin, -0.5 - margin), yticks=[])


def _caption(axes: Axes, true: str, predicted: str, share: float, right: bool) -> None:
    mark, colour = ("✓", BLUE) if right else ("✗", VERMILLION)
    text = f"{mark} {_fitting(true, 80)}\n→ {_fitting(predicted, 70)} {100 * share:.0f} %"
    axes.set_xlabel(text, color=INK if right else colour, fontsize=8, labelpad=4)
    width, dashes = (0.8, "-") if right else (2.0, (0, (3, 1.5)))
    axes.spines[:].set(visible=True, color=colour, linewidth=width, linestyle=dashes)


def _fitting(name: str, width: float) -> str:
    """`name`, cut where it is wider than `width` points in 8-point type."""
    text, font = shown(name), FontProperties(size=8)
    while TextToPath().get_text_width_height_descent(text, font, ismath=False)[0] > width:
        text = shown(name, len(text) - 1)
    return text


@_style()
def class_grid(
    images: np.ndarray, labels: np.ndarray, classes: Sequence[str], title: str, per_class: int = 10, seed: int = 0
) -> Figure:
    """A row for each class (30 at most): its name, how many images it has, and `per_class` of them drawn by `seed`.

    `images` uint8 N×H×W×3, `labels` N integers in [0, K).
    """
    names = [shown(name, 24) for name in classes[:MOST_ROWS]]
    rng, (height, width) = np.random.default_rng(seed), images.shape[1:3]
    gap = max(1, height // 12)
    mosaic = np.full((len(names) * (height + gap), per_class * (width + gap), 3), 255, np.uint8)
    counts = np.bincount(labels, minlength=len(classes))
    for label in range(len(names)):
        drawn = rng.choice(np.flatnonzero(labels == label), min(per_class, counts[label]), replace=False)
        for column, index in enumerate(drawn):
            y, x = label * (height + gap), column * (width + gap)
            mosaic[y : y + height, x : x + width] = images[index]
    return _mosaic_figure(mosaic, [f"{n}\n{c:,}" for n, c in zip(names, counts, strict=False)], title, len(classes))


def _mosaic_figure(mosaic: np.ndarray, row_labels: list[str], title: str, k: int) -> Figure:
    rows, (height, width) = len(row_labels), mosaic.shape[:2]
    note = f"the first {rows} of {k:,} classes" if rows < k else ""
    figure = _figure(8.2, 6.6 * height / width + 0.8, title, note)
    axes = figure.subplots()
    axes.imshow(mosaic, interpolation="nearest")
    axes.set_yticks((np.arange(rows) + 0.5) * height / rows, row_labels)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


# -- classes


@_style()
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
    colours[wrong == 0] = 1.0  # white: no single image
    np.einsum("iic->ic", colours)[:] = matplotlib.colormaps["Blues"](0.45 * np.diag(shares))
    side = float(np.clip(0.5 * k + 1.8, 4.5, 11.0))
    figure = _figure(side + 0.6, side, title)
    axes = figure.subplots()
    axes.imshow(colours, interpolation="nearest")
    axes.set_anchor("N")
    _name_sides(axes, classes)
    if k <= 20:
        _write_counts(axes, matrix, dark=wrong > 0.6 * top)
    bar = figure.colorbar(oranges, ax=axes, shrink=0.5, aspect=25, format=_percent())
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
    for row, column in np.argwhere(matrix):  # an empty cell says nought more quietly than a figure
        text = axes.text(column, row, f"{matrix[row, column]}", ha="center", va="center")
        text.set(color="white" if dark[row, column] else INK, fontweight="bold" if row == column else "normal")
        text.set_fontsize(8 if len(matrix) <= 12 else 6)


@_style()
def class_scores(frame: "pd.DataFrame", title: str = "Scores by class") -> Figure:
    """Precision, recall and F1 of each class as dots, the worst F1 at the foot; the 30 worst of more classes.

    `frame` is that of `metrics.per_class`.
    """
    ranked = frame.iloc[: -len(SUMMARY_ROWS)].sort_values("f1", kind="stable")
    rows, k = ranked.head(MOST_ROWS), len(ranked)
    note = f"the {len(rows)} of {k:,} classes with the lowest F1" if len(rows) < k else ""
    figure = _figure(6.5, 0.27 * len(rows) + 1.3, title, note)
    axes, places = figure.subplots(), np.arange(len(rows))
    axes.hlines(places, rows["precision"], rows["recall"], color=FAINT, linewidth=1.5, zorder=1)
    for column, marker, colour in (("precision", "<", ORANGE), ("recall", ">", BLUE), ("f1", "o", INK)):
        axes.scatter(rows[column], places, marker=marker, s=26, color=colour, label=column.replace("f1", "F1"))
    axes.set_yticks(places, [shown(str(name), 24) for name in rows.index])
    axes.xaxis.set_major_formatter(_percent())
    axes.grid(axis="x", color=FAINT, linewidth=0.5)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2, handletextpad=0.1)
    return figure


# -- many runs


@_style()
def accuracy_and_time(rows: Sequence[dict[str, Any]], title: str = "Accuracy and time of every run") -> Figure:
    """One dot a run, one colour and mark a recipe, a bar for the mean's 95 % interval (`rows`: `bench.summarize`)."""
    figure = _figure(6.4, 4.0, title)
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
    axes.yaxis.set_major_formatter(_percent())
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.legend(loc="upper left")  # times begin at 0, so that this corner is empty
    return figure
