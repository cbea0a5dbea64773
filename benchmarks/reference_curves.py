"""A run of the reference recipe beside the reference system's own figures: its curves, its scores, class by class.

    python benchmarks/reference_curves.py RUN [--out docs/background/keras/curves.png]

The reference system's figures are `docs/background/keras/history.csv` and `classification_report.csv`, as its author
published them; its per-class report has two digits. Prints the table as Markdown and draws both runs' curves into one
plot.
"""

import argparse
import json
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tenfold.evaluation.plots.style import BLUE, FAINT, VERMILLION, new_figure, percent, save, styled

PUBLISHED = Path(__file__).parents[1] / "docs" / "background" / "keras"
ACCURACY, LOSS = 0.8874, 0.5771
"""On the test images, as published."""


@styled()
def draw(ours: pd.DataFrame, theirs: pd.DataFrame, title: str) -> Figure:
    """Loss and accuracy of both runs against epochs; every value at the end of its epoch."""
    figure = new_figure(
        9.0, 3.8, title, "strong: tenfold · faint, dashed: the reference system, as published · dotted: stages"
    )
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        axes.set(title=quantity.capitalize(), xlabel="epoch")
        axes.grid(axis="y", color=FAINT, linewidth=0.5)
        for stage in ours.groupby("stage")["epoch"].max()[:-1]:
            axes.axvline(stage, color=FAINT, linewidth=0.8, linestyle=":")
        for part, name, colour in (("train", "training", BLUE), ("val", "validation", VERMILLION)):
            _draw_pair(axes, ours, theirs, f"{part}_{quantity}", name, colour)
    figure.axes[0].legend()
    figure.axes[1].yaxis.set_major_formatter(percent())
    return figure


def _draw_pair(axes: Axes, ours: pd.DataFrame, theirs: pd.DataFrame, column: str, name: str, colour: str) -> None:
    axes.plot(theirs["epoch"], theirs[column], color=colour, alpha=0.5, linewidth=1.2, linestyle=(0, (4, 2)))
    axes.plot(ours["epoch"], ours[column], color=colour, linewidth=1.6, label=name)


def table(ours: pd.DataFrame, theirs: pd.DataFrame) -> str:
    """Precision, recall and F1 of each class, tenfold's first, the published ones after a slash."""
    lines = ["| class | precision | recall | F1 |", "|---|---|---|---|"]
    for name, published in theirs.iterrows():
        cells = [f"{ours.at[name, score]:.2f} / {published[score]:.2f}" for score in ("precision", "recall", "f1")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Set a run of the reference recipe beside the published one.")
    parser.add_argument("run", type=Path, help="a finished run directory")
    parser.add_argument("--out", type=Path, default=PUBLISHED / "curves.png", help="picture to write")
    options = parser.parse_args()
    results = json.loads((options.run / "results.json").read_text())
    scores = f"{results['test_accuracy']:.2%} of the test images right; published {ACCURACY:.2%}"
    title = f"{results['recipe']} on {results['data']}, seed {results['seed']}: {scores}"
    history = pd.read_csv(options.run / "metrics.csv"), pd.read_csv(PUBLISHED / "history.csv")
    save(draw(*history, title), options.out)
    published = pd.read_csv(PUBLISHED / "classification_report.csv", index_col="class")
    print(f"test accuracy {results['test_accuracy']:.2%} / {ACCURACY:.2%}")
    print(f"test loss {results['test_loss']:.4f} / {LOSS:.4f}\n")
    print(table(pd.read_csv(options.run / "per_class.csv", index_col="class"), published))
    print(f"\n{options.out}")


if __name__ == "__main__":
    main()
