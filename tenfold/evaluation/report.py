"""Scores → pictures: what `tenfold train` leaves in `plots/`."""

from pathlib import Path

import pandas as pd

from tenfold.data.dataset import Dataset
from tenfold.evaluation import metrics, plots
from tenfold.training.run import Run


def draw_plots(run: Run, dataset: Dataset) -> list[Path]:
    """Draw a scored run: history, the first test images, the surest mistakes, confusion, scores by class.

    Writes `plots/*.png` and seals the run; the caller owns its lock. Returns the paths.
    """
    results = run.require_scores()
    run.verify("results.json", "predictions.csv", "metrics.csv", "steps.csv")
    predictions = pd.read_csv(
        run.path / "predictions.csv", dtype={"true": str, "predicted": str}, keep_default_na=False
    )
    epochs, steps = pd.read_csv(run.path / "metrics.csv"), pd.read_csv(run.path / "steps.csv")
    name = f"{results['recipe']} on {dataset.name}, seed {results['seed']}"
    numbers = {label: number for number, label in enumerate(dataset.classes)}
    predicted = predictions["predicted"].map(numbers).to_numpy()
    images, labels = dataset.test.images, dataset.test.labels
    first = slice(plots.GALLERY_IMAGES)
    figures = {
        "history": plots.history(epochs, steps, name, results["test_accuracy"]),
        "gallery": plots.gallery(
            images[first],
            labels[first],
            predicted[first],
            predictions["probability"].to_numpy()[first],
            dataset.classes,
            f"The first test images: {name}",
        ),
        "misclassified": plots.misclassified(images, predictions, dataset.classes, f"The surest mistakes: {name}"),
        "confusion": plots.confusion(
            metrics.confusion_matrix(labels, predicted, len(dataset.classes)), dataset.classes, f"Confusion: {name}"
        ),
    }
    figures["per_class"] = plots.class_scores(
        metrics.per_class(labels, predicted, dataset.classes), f"Scores by class: {name}"
    )
    paths = []
    for stem, figure in figures.items():
        paths.append(run.path / "plots" / f"{stem}.png")
        plots.save(figure, paths[-1])
    run.seal_more(*(path.relative_to(run.path).as_posix() for path in paths))
    return paths
