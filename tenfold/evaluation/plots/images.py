"""Galleries of images with their predictions. Legend: N images, H×W pixels, K classes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tenfold.console import plural
from tenfold.data.stored import Images
from tenfold.evaluation.metrics import format_confidence, shown
from tenfold.evaluation.plots.style import BLUE, INK, MOST_ROWS, VERMILLION, fitting, new_figure, styled

if TYPE_CHECKING:
    import pandas as pd

GALLERY_COLUMNS, GALLERY_IMAGES = 5, 25


@styled()
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
    (thin, thick and dashed) and colour. `note` is the line at the foot; by default the number of correct ones.
    """
    images, true, predicted = images[:GALLERY_IMAGES], true[:GALLERY_IMAGES], predicted[:GALLERY_IMAGES]
    rows = max(1, -(-len(images) // GALLERY_COLUMNS))
    note = note or f"{(true == predicted).sum()} of {len(images)} correct"
    figure = new_figure(8.0, 1.95 * rows + 0.6, title, f"{note} · true class → predicted class, its probability")
    cells = figure.subplots(rows, GALLERY_COLUMNS, squeeze=False).ravel()
    for axes in cells[len(images) :]:
        axes.set_axis_off()
    for axes, image, is_, guessed, share in zip(cells, images, true, predicted, probabilities, strict=False):
        _draw_image(axes, image)
        _caption(axes, classes[is_], classes[guessed], float(share), right=bool(is_ == guessed))
    return figure


@styled()
def misclassified(images: Images, predictions: "pd.DataFrame", classes: Sequence[str], title: str) -> Figure:
    """A gallery of misclassified images, the most confident first.

    `images` uint8 N×H×W×3, all those that the rows of `predictions` (see `metrics.predictions`) point into.
    """
    wrong = predictions[~predictions["correct"]].sort_values("probability", ascending=False, kind="stable")
    if wrong.empty:
        return new_figure(8.0, 0.9, title, f"No mistakes among {plural(len(predictions), 'image')}.")
    top, label_of = wrong.head(GALLERY_IMAGES), {name: label for label, name in enumerate(classes)}
    true, predicted = (top[column].map(label_of).to_numpy() for column in ("true", "predicted"))
    note = (
        f"{len(top)} of {plural(len(wrong), 'mistake')} among {plural(len(predictions), 'image')}, most confident first"
    )
    return gallery(images[top["index"]], true, predicted, top["probability"].to_numpy(), classes, title, note)


def _draw_image(axes: Axes, image: np.ndarray) -> None:
    height, width = image.shape[:2]
    margin = 0.04 * max(height, width)  # so that the frame covers no pixel
    axes.imshow(image, interpolation="nearest")
    axes.set(xlim=(-0.5 - margin, width - 0.5 + margin), xticks=[])
    axes.set(ylim=(height - 0.5 + margin, -0.5 - margin), yticks=[])


def _caption(axes: Axes, true: str, predicted: str, share: float, right: bool) -> None:
    mark, colour = ("✓", BLUE) if right else ("✗", VERMILLION)
    text = f"{mark} {fitting(true, 80)}\n→ {fitting(predicted, 64)} {format_confidence(share)}"
    axes.set_xlabel(text, color=INK if right else colour, fontsize=8, labelpad=4)
    width, dashes = (0.8, "-") if right else (2.0, (0, (3, 1.5)))
    axes.spines[:].set(visible=True, color=colour, linewidth=width, linestyle=dashes)


@styled()
def class_grid(
    images: Images, labels: np.ndarray, classes: Sequence[str], title: str, per_class: int = 10, seed: int = 0
) -> Figure:
    """A row for each class (30 at most): its name, how many images it has, and `per_class` of them drawn by `seed`.

    `images` uint8 N×H×W×3, `labels` N integers in [0, K).
    """
    names = [fitting(shown(name, 24), 124) for name in classes[:MOST_ROWS]]
    rng, (height, width) = np.random.default_rng(seed), images.shape[1:3]
    gap = max(1, height // 12)
    counts = np.bincount(labels, minlength=len(classes))
    per_class = max(1, min(per_class, counts[: len(names)].max()))
    mosaic = np.full((len(names) * (height + gap), per_class * (width + gap), 3), 255, np.uint8)
    for label in range(len(names)):
        drawn = rng.choice(np.flatnonzero(labels == label), min(per_class, counts[label]), replace=False)
        for column, index in enumerate(drawn):
            y, x = label * (height + gap), column * (width + gap)
            mosaic[y : y + height, x : x + width] = images[index]
    return _mosaic_figure(mosaic, [f"{n}\n{c:,}" for n, c in zip(names, counts, strict=False)], title, len(classes))


def _mosaic_figure(mosaic: np.ndarray, row_labels: list[str], title: str, k: int) -> Figure:
    rows, (height, width) = len(row_labels), mosaic.shape[:2]
    note = f"the first {rows} of {k:,} classes" if rows < k else ""
    figure = new_figure(8.8, 6.6 * height / width + 0.8, title, note)
    axes = figure.subplots()
    axes.imshow(mosaic, interpolation="nearest")
    axes.set_anchor("E")  # where its shape leaves room, that is the names'
    axes.set_yticks((np.arange(rows) + 0.5) * height / rows, row_labels)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure
