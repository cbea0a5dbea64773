"""Figures: what is drawn, what is written, and that nothing is left behind."""

import io
import subprocess
import sys
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.text import Text
from PIL import Image

from tenfold.evaluation import metrics, plots
from tenfold.evaluation.plots import fonts
from tenfold.evaluation.plots.runs import LOOKS

AWKWARD = ["$x_1$ and $", "<b>&amp;</b>", "snake_case_100%", "a" * 60, "猫", "new\nline\x1b[31m", "日本"]


def draw_images(n: int, height: int = 32, width: int = 32) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def drawn_images(figure: Figure) -> list[AxesImage]:
    return [image for axes in figure.axes for image in axes.images]


def epochs_of(ends: list[float], stages: list[int] | None = None, validated: bool = True) -> pd.DataFrame:
    n = len(ends)
    falling, rising = np.linspace(2, 0.5, n), np.linspace(0.3, 0.9, n)
    columns = {"epoch": ends, "stage": stages or [1] * n, "learning_rate": 1e-3}
    columns |= {"train_loss": falling, "train_accuracy": rising, "seconds": 1.0}
    columns |= {"val_loss": falling + 0.1 if validated else np.nan, "val_accuracy": rising if validated else np.nan}
    return pd.DataFrame(columns)


def steps_of(n: int, epochs: float) -> pd.DataFrame:
    step = np.arange(1, n + 1)
    noise = np.random.default_rng(n).normal(0, 0.05, n)
    return pd.DataFrame({"step": step, "epoch": step * epochs / n, "loss": 2 - step / n + noise, "accuracy": step / n})


def line(figure: Figure, panel: int, label: str) -> np.ndarray:
    (found,) = (line for line in figure.axes[panel].lines if line.get_label() == label)
    return np.asarray(found.get_xydata())


# -- history


def test_history_draws_training_means_mid_epoch_and_validation_at_its_end() -> None:
    figure = plots.history(epochs_of([1, 2, 2.5]), steps_of(0, 1), "run")
    np.testing.assert_allclose(line(figure, 0, "training, mean of epoch"), [[0.5, 2], [1.5, 1.25], [2.25, 0.5]])
    np.testing.assert_allclose(line(figure, 0, "validation"), [[1, 2.1], [2, 1.35], [2.5, 0.6]])
    np.testing.assert_allclose(line(figure, 1, "validation")[:, 1], [0.3, 0.6, 0.9])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Loss", "Accuracy"]
    assert figure.get_suptitle() == "run"


def test_history_smooths_batches_without_moving_their_mean() -> None:
    flat = steps_of(400, 4).assign(loss=[1.0, 3.0] * 200)
    figure = plots.history(epochs_of([1, 2, 3, 4]), flat, "run")
    smooth = line(figure, 0, "training batches, smoothed")[:, 1]
    assert smooth.shape == (400,)
    np.testing.assert_allclose(smooth[20:-20], 2, atol=0.05)


def test_history_without_validation_has_no_validation_line() -> None:
    figure = plots.history(epochs_of([1, 2], validated=False), steps_of(200, 2), "run")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["training batches, smoothed", "training, mean of epoch"]


def test_history_marks_the_starts_of_stages() -> None:
    figure = plots.history(epochs_of([1, 2, 3, 4, 5], [1, 1, 2, 2, 3]), steps_of(0, 1), "run")
    dotted = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_linestyle() == ":"]
    assert dotted == [2, 4]
    assert {"stage 2", "stage 3"} <= set(texts(figure)) and "stage 1" not in texts(figure)


def test_history_marks_the_test_score_even_far_from_the_curves() -> None:
    figure = plots.history(epochs_of([1, 2]), steps_of(0, 1), "run", test_accuracy=0.9987)
    assert "test\n99.87 %" in texts(figure)
    low, high = figure.axes[1].get_ylim()
    assert low < 0.9987 < high
    assert not any("test" in text for text in texts(plots.history(epochs_of([1, 2]), steps_of(0, 1), "run")))


def test_history_shows_every_epoch_but_not_the_wildest_batch() -> None:
    steps = steps_of(1000, 2)
    steps.loc[0, "loss"] = 1e6
    low, high = plots.history(epochs_of([1, 2]), steps, "run").axes[0].get_ylim()
    assert low < 0.5 and 2.1 < high < 5


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_history_of_a_diverged_run_is_drawn(bad: float) -> None:
    epochs = epochs_of([1, 2], validated=False).assign(train_loss=bad)
    png = plots.to_png(plots.history(epochs, steps_of(3, 1).assign(loss=bad), "run"), dpi=40)
    assert Image.open(io.BytesIO(png)).size[0] > 300


@pytest.mark.parametrize(("n", "epochs"), [(0, 35), (1, 1), (3, 1), (200, 2)])
def test_history_of_any_length_is_drawn(n: int, epochs: int) -> None:
    figure = plots.history(epochs_of([*range(1, epochs + 1)]), steps_of(n, epochs), "run", 0.9)
    plots.to_png(figure, dpi=40)
    assert figure.axes[0].get_xlim() == pytest.approx((0, epochs * 1.01))


def test_history_of_a_very_short_run_is_not_covered_by_the_legend() -> None:
    """In the loss's upper right corner the legend lay over the only points there were."""
    figure = plots.history(epochs_of([0.1], validated=False), steps_of(4, 0.1), "run")
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert not any(axes.get_window_extent().overlaps(legend) for axes in figure.axes)


# -- galleries


def test_gallery_draws_the_very_pixels_and_says_right_from_wrong() -> None:
    images = draw_images(3)
    shares = np.array([0.98, 0.874, 1.0])
    figure = plots.gallery(images, np.array([0, 0, 1]), np.array([0, 1, 1]), shares, ["cat", "dog"], "Pets")
    for drawn, image in zip(drawn_images(figure), images, strict=True):
        np.testing.assert_array_equal(drawn.get_array(), image)
        assert drawn.get_interpolation() == "nearest"
    captions = [axes.get_xlabel() for axes in figure.axes[:3]]
    assert captions == ["✓ cat\n→ cat 98 %", "✗ cat\n→ dog 87 %", "✓ dog\n→ dog 100 %"]
    frames = [(axes.spines["left"].get_linestyle(), axes.spines["left"].get_linewidth()) for axes in figure.axes[:3]]
    assert frames[0] == frames[2] == ("-", 0.8)
    assert frames[1][0] != "-" and frames[1][1] > 1.5
    assert figure.get_supxlabel().startswith("2 of 3 correct")


@pytest.mark.parametrize(("n", "shown", "cells"), [(1, 1, 5), (5, 5, 5), (6, 6, 10), (25, 25, 25), (40, 25, 25)])
def test_gallery_has_rows_of_five(n: int, shown: int, cells: int) -> None:
    labels = np.zeros(n, int)
    figure = plots.gallery(draw_images(n, 20, 30), labels, labels, np.ones(n), ["a", "b"], "title")
    assert len(drawn_images(figure)) == shown and len(figure.axes) == cells
    assert figure.get_supxlabel().startswith(f"{shown} of {shown} correct")


def test_gallery_frame_covers_no_pixel() -> None:
    """Red frames would show as a change of the image's edge: look at the rendered pixels."""
    white = np.full((1, 8, 8, 3), 200, np.uint8)
    figure = plots.gallery(white, np.array([0]), np.array([1]), np.array([0.5]), ["a", "b"], "title")
    pixels = np.asarray(Image.open(io.BytesIO(plots.to_png(figure, dpi=100))).convert("RGB"))
    box = figure.axes[0].transData.transform([(-0.5, -0.5), (7.5, 7.5)]) * 100 / figure.dpi
    (left, top), (right, bottom) = box[0], box[1]
    inside = pixels[pixels.shape[0] - int(top) + 1 : pixels.shape[0] - int(bottom) - 2, int(left) + 2 : int(right) - 2]
    assert inside.size and (inside == 200).all()


def predictions_of(right: list[bool], probability: list[float]) -> pd.DataFrame:
    predicted = ["cat" if is_right else "dog" for is_right in right]
    columns = {"index": range(len(right)), "true": "cat", "predicted": predicted}
    return pd.DataFrame({**columns, "probability": probability, "correct": right})


def test_misclassified_shows_the_surest_mistakes_first() -> None:
    images = draw_images(5)
    frame = predictions_of([True, False, False, True, False], [0.99, 0.6, 0.9, 0.5, 0.7])
    figure = plots.misclassified(images, frame, ["dog", "cat"], "Mistakes")
    for drawn, index in zip(drawn_images(figure), [2, 4, 1], strict=True):
        np.testing.assert_array_equal(drawn.get_array(), images[index])
    assert [axes.get_xlabel() for axes in figure.axes[:2]] == ["✗ cat\n→ dog 90 %", "✗ cat\n→ dog 70 %"]
    assert figure.get_supxlabel().startswith("3 of 3 mistakes among 5 images, most confident first")


def test_misclassified_takes_the_frame_of_metrics() -> None:
    logits = np.random.default_rng(0).normal(size=(1200, 3))
    frame = metrics.predictions(logits, np.zeros(1200, np.uint8), ["a", "b", "c"])
    figure = plots.misclassified(draw_images(1200, 4, 4), frame, ["a", "b", "c"], "Mistakes")
    wrong = (~frame["correct"]).sum()
    assert figure.get_supxlabel().startswith(f"25 of {wrong} mistakes among 1,200 images")


def test_no_mistakes_are_said() -> None:
    figure = plots.misclassified(draw_images(2), predictions_of([True, True], [1, 1]), ["dog", "cat"], "Mistakes")
    assert figure.axes == [] and figure.get_supxlabel() == "No mistakes among 2 images."
    plots.to_png(figure, dpi=40)


# -- class grid


def test_class_grid_draws_images_of_each_class_in_its_row() -> None:
    labels = np.array([0] * 5 + [1] * 2 + [2] * 4, np.uint8)
    images = np.broadcast_to(labels[:, None, None, None] * 50 + 10, (11, 24, 12, 3)).astype(np.uint8)
    figure = plots.class_grid(images, labels, ["a", "b", "c"], "Data", per_class=3)
    (drawn,) = drawn_images(figure)
    mosaic = np.asarray(drawn.get_array())
    assert mosaic.shape == (3 * 26, 3 * 14, 3) and drawn.get_interpolation() == "nearest"
    corners = mosaic[::26, ::14, 0]
    np.testing.assert_array_equal(corners, [[10, 10, 10], [60, 60, 255], [110, 110, 110]])
    np.testing.assert_array_equal(mosaic[:24, :12], images[0])
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["a\n5", "b\n2", "c\n4"]


def test_class_grid_is_drawn_by_its_seed() -> None:
    images, labels = draw_images(60), np.zeros(60, np.uint8)
    mosaics = [
        np.asarray(drawn_images(plots.class_grid(images, labels, ["a", "b"], "Data", seed=seed))[0].get_array())
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(mosaics[0], mosaics[1])
    assert (mosaics[0] != mosaics[2]).any()


def test_class_grid_says_that_there_are_more_classes() -> None:
    labels = np.arange(1000, dtype=np.uint16)
    figure = plots.class_grid(draw_images(1000, 4, 4), labels, [f"class {i}" for i in labels], "Data", per_class=1)
    assert len(figure.axes[0].get_yticklabels()) == 30
    assert figure.get_supxlabel() == "the first 30 of 1,000 classes"


# -- classes


def test_confusion_shows_counts_and_colours_by_share_of_the_row() -> None:
    matrix = np.array([[90, 10, 0], [5, 994, 1], [0, 0, 0]])
    figure = plots.confusion(matrix, ["cat", "dog", "owl"])
    counts = sorted(text.get_text() for text in figure.axes[0].texts)
    assert counts == ["1", "10", "5", "90", "994"]
    colours = np.asarray(drawn_images(figure)[0].get_array())[..., :3]
    np.testing.assert_allclose(colours[0, 1], matplotlib.colormaps["Oranges"](1.0)[:3])  # 10 %, the largest
    np.testing.assert_allclose(colours[1, 0], matplotlib.colormaps["Oranges"](0.05)[:3])  # 0.5 % of 10 %
    assert (colours[0, 2] == 1).all() and (colours[2, :2] == 1).all(), "no image, no colour"
    assert colours[0, 0, 2] > colours[0, 0, 0], "the diagonal is blue"


def test_confusion_of_a_perfect_model_and_of_a_thousand_classes() -> None:
    plots.to_png(plots.confusion(np.diag([5, 5]), ["a", "b"]), dpi=40)
    figure = plots.confusion(np.eye(1000, dtype=np.int64), [f"class {i}" for i in range(1000)])
    assert len(figure.axes[0].texts) == 0 and "class 7" not in texts(figure)
    assert max(figure.get_size_inches()) < 12


def test_class_scores_are_ranked_and_leave_the_summary_out() -> None:
    labels = np.array([0] * 10 + [1] * 10 + [2] * 10)
    predicted = np.array([0] * 10 + [1] * 5 + [2] * 5 + [2] * 10)
    figure = plots.class_scores(metrics.per_class(labels, predicted, ["cat", "dog", "owl"]))
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["dog", "owl", "cat"]
    precision, recall, f1 = (np.asarray(dots.get_offsets())[:, 0] for dots in axes.collections[1:])
    np.testing.assert_allclose(precision, [1, 10 / 15, 1])
    np.testing.assert_allclose(recall, [0.5, 1, 1])
    np.testing.assert_allclose(f1, [2 / 3, 0.8, 1])


def test_class_scores_of_many_classes_show_the_worst_thirty() -> None:
    labels = np.arange(100)
    figure = plots.class_scores(metrics.per_class(labels, np.minimum(labels, 97), [f"class {i}" for i in labels]))
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names[:3] == ["class 98", "class 99", "class 97"] and len(names) == 30
    assert figure.get_supxlabel() == "the 30 of 100 classes with the lowest F1"


# -- certainty


def test_reliability_draws_the_bins_that_have_images() -> None:
    before = metrics.Reliability(np.array([0, 10, 30]), np.array([0, 0.5, 0.9]), np.array([0, 0.7, 0.95]))
    after = before._replace(confidence=np.array([0, 0.68, 0.96]))
    figure = plots.reliability(before, after, "run")
    np.testing.assert_allclose(line(figure, 0, "as trained"), [[0.5, 0.7], [0.9, 0.95]])
    np.testing.assert_allclose(line(figure, 0, "after temperature scaling"), [[0.68, 0.7], [0.96, 0.95]])
    alone = plots.reliability(before, None, "run").axes[0].get_legend()
    assert alone is not None and [text.get_text() for text in alone.get_texts()] == ["as trained"]


# -- all of them


def every_figure(classes: list[str]) -> dict[str, Figure]:
    k = len(classes)
    images, labels = draw_images(2 * k), np.arange(2 * k) % k
    logits = np.random.default_rng(5).normal(size=(2 * k, k))
    frame = metrics.predictions(logits, labels, classes)
    predicted = logits.argmax(axis=1)
    return {
        "history": plots.history(epochs_of([1, 2]), steps_of(20, 2), classes[0], 0.5),
        "gallery": plots.gallery(images, labels, predicted, frame["probability"].to_numpy(), classes, classes[0]),
        "misclassified": plots.misclassified(images, frame, classes, classes[1]),
        "class_grid": plots.class_grid(images, labels, classes, classes[2]),
        "confusion": plots.confusion(metrics.confusion_matrix(labels, predicted, k), classes),
        "reliability": plots.reliability(metrics.reliability(logits, labels), None, classes[3]),
        "class_scores": plots.class_scores(metrics.per_class(labels, predicted, classes)),
    }


def test_awkward_class_names_are_drawn_literally_and_without_warnings() -> None:
    for name, figure in every_figure(AWKWARD).items():
        plots.to_png(figure, dpi=40)  # a formula out of "$" would fail here, a missing letter would warn
        assert not any(text.get_parse_math() for text in figure.findobj(Text) if "$" in text.get_text()), name
    said = "\n".join(texts(every_figure(AWKWARD)["class_grid"]))
    assert "$x_1$ and $" in said and "<b>&amp;</b>" in said and "snake_case_100%" in said
    assert "a" * 23 + "…" in said and "new�line�[31m" in said


def test_nothing_is_cut_off() -> None:
    """Every text lies within its figure, long class names too."""
    for name, figure in every_figure(["W" * 40, *AWKWARD]).items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # letters that no font has
            figure.draw_without_rendering()
            boxes = {text.get_text(): text.get_window_extent() for text in figure.findobj(Text) if text.get_text()}
        width, height = figure.bbox.size
        for text, box in boxes.items():
            assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height, (name, text)


def test_files_are_the_same_bytes_and_say_nothing_of_when_and_by_what(tmp_path: Path) -> None:
    for attempt in ("a", "b"):
        plots.save(plots.confusion(np.eye(3, dtype=int), ["a", "b", "c"]), tmp_path / attempt / "confusion.png")
    first, second = ((tmp_path / attempt / "confusion.png").read_bytes() for attempt in ("a", "b"))
    assert first == second
    with Image.open(io.BytesIO(first)) as image:
        assert image.format == "PNG" and set(image.info) == {"dpi"}


def test_a_users_matplotlibrc_changes_nothing_and_is_not_changed() -> None:
    plain = plots.to_png(plots.confusion(np.eye(3, dtype=int), ["a", "b", "c"]), dpi=50)
    with matplotlib.rc_context({"font.size": 30, "savefig.facecolor": "black", "lines.linewidth": 9}):
        before = dict(matplotlib.rcParams)
        assert plots.to_png(plots.confusion(np.eye(3, dtype=int), ["a", "b", "c"]), dpi=50) == plain
        assert dict(matplotlib.rcParams) == before


def test_pyplot_is_not_imported() -> None:
    code = (
        "import sys, tenfold.evaluation.plots; sys.exit('matplotlib.pyplot' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- many runs


def bench_row(
    recipe: str, accuracies: list[float], seconds: list[float], unsteady: int | None = None
) -> dict[str, Any]:
    runs = [
        {"accuracy": accuracy, "normalised_seconds": time, "seconds": 2 * time, "steady": number != unsteady}
        for number, (accuracy, time) in enumerate(zip(accuracies, seconds, strict=True))
    ]
    ends = {"median": float(np.median(seconds)), "min": min(seconds), "max": max(seconds)}
    return {
        "recipe": recipe,
        "n": len(accuracies),
        "mean": float(np.mean(accuracies)),
        "ci95": [min(accuracies), max(accuracies)] if len(accuracies) > 1 else None,
        "seconds": {"total": {name: 2 * end for name, end in ends.items()}},
        "normalised_seconds": {"total": ends},
        "measured_on": "test",
        "runs": runs,
    }


def dots_of(axes: Axes) -> list[list[list[float]]]:
    return [part.get_offsets().tolist() for part in axes.collections if isinstance(part, PathCollection)]


def test_every_run_is_a_dot_at_its_time_and_accuracy() -> None:
    rows = [bench_row("a", [0.89, 0.90, 0.91], [50, 60, 40], unsteady=1), bench_row("_b$x$", [0.94], [400])]
    (axes,) = plots.accuracy_and_time(rows).axes
    assert dots_of(axes) == [[[50, 0.89], [40, 0.91]], [[60, 0.90]], [[400, 0.94]], []]
    hollow = axes.collections[1]
    assert len(hollow.get_facecolor()) == 0 and len(hollow.get_edgecolor()) == 1
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["a: 90.00% (n = 3)", "_b$x$: 94.00% (n = 1)"]
    assert axes.get_xlim() == pytest.approx((0, 420))


def test_runs_that_cannot_be_normalised_are_shown_by_the_clock() -> None:
    normal, foreign = bench_row("a", [0.9], [40]), bench_row("b", [0.9], [4])
    foreign["normalised_seconds"]["total"] = None
    (axes,) = plots.accuracy_and_time([normal, foreign]).axes
    assert dots_of(axes) == [[[80, 0.9]], [], [[8, 0.9]], []] and axes.get_xlim() == pytest.approx((0, 84))


def test_accuracies_of_runs_are_drawn_with_their_intervals_the_first_on_top() -> None:
    figure = plots.accuracies([("a", 0.5, (0.4, 0.7)), ("b$", 0.9, (0.9, 1.0))], "two")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b$"] and axes.yaxis_inverted()
    bars = [container.lines for container in axes.containers]  # dot, caps, bar
    assert [(dot.get_xdata()[0], dot.get_ydata()[0]) for dot, _, _ in bars] == [(0.5, 0), (0.9, 1)]
    ends = [bar.get_segments()[0][:, 0].tolist() for _, _, (bar,) in bars]
    assert ends == [pytest.approx([0.4, 0.7]), pytest.approx([0.9, 1.0])]


def test_times_far_apart_have_a_logarithmic_axis() -> None:
    for slow, scale in ((400, "linear"), (600, "log")):
        figure = plots.accuracy_and_time([bench_row("a", [0.9], [50]), bench_row("b", [0.95], [slow])])
        assert figure.axes[0].get_xscale() == scale
    figure.savefig(io.BytesIO())  # labels are made when it is drawn
    assert {"50", "100", "200", "500"} <= set(texts(figure)) and not any("$" in text for text in texts(figure))


def test_sixteen_recipes_look_different() -> None:
    assert len(set(LOOKS)) == 16 and all(a[0] != b[0] for a, b in pairwise(LOOKS))


def keep_own_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with the fonts that come with Matplotlib only."""
    own = [entry for entry in font_manager.fontManager.ttflist if "DejaVu" in entry.name]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    fonts.find_fonts.cache_clear()
    fonts._warn.cache_clear()


def add_font(path: Path, letters: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a font for this test, in which each of `letters` is a filled square."""
    pen = TTGlyphPen(None)
    for act, *points in (
        (pen.moveTo, (0, 0)),
        (pen.lineTo, (0, 900)),
        (pen.lineTo, (900, 900)),
        (pen.lineTo, (900, 0)),
    ):
        act(*points)
    pen.closePath()
    square, builder = pen.glyph(), FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap(dict.fromkeys(map(ord, letters), "square"))
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": square})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2(usWeightClass=400)
    builder.setupPost()
    builder.save(path)
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [*font_manager.fontManager.ttflist])
    font_manager.fontManager.addfont(path)
    fonts.find_fonts.cache_clear()


@pytest.mark.parametrize("letters", ["猫犬", "क", "🐈"], ids=["cjk", "devanagari", "emoji"])
def test_letters_are_drawn_in_an_installed_font_that_has_them(
    letters: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Squares of ink instead of boxes with four digits, whatever the font is called; nothing is said."""
    keep_own_fonts(monkeypatch)
    add_font(tmp_path / "Any Name.ttf", letters, monkeypatch)
    figure = plots.confusion(np.eye(2, dtype=int), [letters, f"a{letters}"])
    png = plots.to_png(figure)
    assert capsys.readouterr().err == ""
    assert {tuple(text.get_fontfamily()) for text in figure.findobj(Text)} == {("DejaVu Sans", "Any Name")}
    assert plots.to_png(plots.confusion(np.eye(2, dtype=int), ["b", "ab"])) != png


def test_letters_that_no_font_has_are_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line that names what to install; Matplotlib's own warnings do not appear."""
    keep_own_fonts(monkeypatch)
    for names in (["猫", "ascii"], ["猫", "été"]):
        plots.to_png(plots.confusion(np.eye(2, dtype=int), names), dpi=40)
    said = capsys.readouterr().err.split()
    assert " ".join(said) == (
        "plots: no installed font has 猫, which show as boxes: "
        "install Noto Sans CJK (Debian: apt-get install fonts-noto-cjk)"
    )
    plots.to_png(plots.confusion(np.eye(2, dtype=int), ["عربي", "Ελληνικά ✓"]), dpi=40)  # DejaVu has them
    assert capsys.readouterr().err == ""


# -- nothing lies over anything else


def collisions(figure: Figure) -> list[tuple[str, str]]:
    """Which of title, note, legends and axes (with all that belongs to them) overlap, or leave the figure."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    blocks = [(text.get_text(), text.get_window_extent(renderer)) for text in figure.texts]
    blocks += [("legend", legend.get_window_extent(renderer)) for legend in figure.legends]
    blocks += [(axes.get_title(loc="left") or "axes", axes.get_tightbbox(renderer)) for axes in figure.axes]
    found = [(name, "the edge") for name, box in blocks if box.x0 < -1 or box.x1 > figure.bbox.width + 1]
    for index, (name, box) in enumerate(blocks):
        for other, its in blocks[index + 1 :]:
            across = min(box.x1, its.x1) - max(box.x0, its.x0)
            if across > 1 and min(box.y1, its.y1) - max(box.y0, its.y0) > 1:
                found.append((name, other))
    return found


def searched(trials: int, fields: int) -> dict[str, Any]:
    states = ["completed", "pruned", "failed"] * trials
    tried = [
        {"val_accuracy": 0.8 + n / 1000 if states[n] == "completed" else None, "state": states[n]}
        for n in range(trials)
    ]
    importances = {f"stages.{n}.learning_rate": 1 / (n + 1) for n in range(fields)}
    row = {"recipe": "r" * 64, "trials": tried, "best": {"val_accuracy": 0.85}, "noise": 0.01}
    return row | {"pruned": trials // 3, "failed": trials // 3, "importances": importances}


@pytest.mark.parametrize(("trials", "fields"), [(3, 0), (40, 8), (300, 20)])
def test_the_legend_of_a_search_does_not_cover_its_note(trials: int, fields: int) -> None:
    """It lay over "… ended early and … failed"."""
    assert collisions(plots.search(searched(trials, fields))) == []


@pytest.mark.slow
@pytest.mark.parametrize(("k", "name"), [(2, "cat"), (2, "W" * 60), (20, "W" * 40), (100, "a long name of a class ")])
def test_long_names_and_many_classes_collide_with_nothing(k: int, name: str) -> None:
    """A title ran out of a narrow figure, and "why W…: gradients" over its neighbours."""
    names, title = [f"{name}{number}" for number in range(k)], "a recipe of a long name, on data of a long name, seed 0"
    rng = np.random.default_rng(k)
    true, predicted, images = rng.integers(0, k, 500), rng.integers(0, k, 500), draw_images(500)
    table = metrics.reliability(rng.standard_normal((500, k)), true)
    figures = [
        plots.confusion(metrics.confusion_matrix(true, predicted, k), names, title * 2),
        plots.class_scores(metrics.per_class(true, predicted, names), title * 2),
        plots.reliability(table, table, title * 2),
        plots.gallery(images, true, predicted, rng.random(500), names, title * 2),
        plots.class_grid(images, true, names, title * 2),
        plots.history(epochs_of([1, 2, 3]), steps_of(30, 3), title * 2, 0.9),
        plots.explanation(
            [
                ("what it sees", images[0]),
                (f"why {names[0]}: gradients", images[1]),
                ("if covered: occlusion", images[2]),
            ],
            [(each, 0.5) for each in names[:5]],
            title * 2,
            f"orange speaks for {names[0]}, blue against it; the two maps agree to 0.50",
        ),
    ]
    assert [collisions(figure) for figure in figures] == [[]] * len(figures)
