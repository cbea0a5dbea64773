"""A run and data → scores, written into the run directory as `results.json` and `predictions.csv`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tenfold.data.dataset import Dataset, Split
from tenfold.errors import DataError
from tenfold.evaluation import metrics
from tenfold.files import write_text
from tenfold.training.device import Plan, make_plan
from tenfold.training.fit import split
from tenfold.training.infer import predict_logits
from tenfold.training.model import count_parameters, penalty
from tenfold.training.run import Model, Run

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Evaluation:
    """What a run does on a test set.

    logits: float32 N×K, test-time views averaged. scores: the numbers that go to `results.json`.
    """

    logits: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    scores: dict[str, Any]

    def per_class(self) -> "pd.DataFrame":
        """Precision, recall and F1 of each class (see `metrics.per_class`)."""
        return metrics.per_class(self.labels, self.logits.argmax(1), self.classes)


def evaluate(run: Run, dataset: Dataset, plan: Plan | None = None) -> Evaluation:
    """Score a trained run on the test images of `dataset`, without writing anything.

    Raises `ModelError` for a run that is unfinished or damaged, `DataError` for data of other classes.
    """
    plan = plan or make_plan()
    model = run.load_model(plan)
    if dataset.classes != model.classes:
        raise DataError(f"{dataset.name} has other classes than {run.path} was trained on: {', '.join(model.classes)}")
    recipe = run.recipe
    single, averaged = _predict(run, model, dataset.test, plan)
    labels = dataset.test.labels.astype(np.int64)
    _, val = split(dataset.train, recipe, run.env["seed"])
    with torch.no_grad():
        l2 = float(penalty(model.network, recipe.l2))
    scores = {
        "run": str(run.path),
        "recipe": recipe.name,
        "parameters": count_parameters(model.network),
        "epochs": recipe.epochs,
        "test_accuracy": metrics.accuracy(averaged, labels),
        "test_accuracy_interval": list(metrics.wilson_interval(int((averaged.argmax(1) == labels).sum()), len(labels))),
        "test_accuracy_top5": metrics.top_k_accuracy(averaged, labels, 5) if len(model.classes) > 5 else None,
        "test_accuracy_single_view": metrics.accuracy(single, labels),
        "test_loss": metrics.cross_entropy(averaged, labels, recipe.label_smoothing) + l2,
        "test_cross_entropy": metrics.cross_entropy(averaged, labels),
        "val_accuracy": metrics.accuracy(_predict(run, model, val, plan)[1], val.labels) if val else None,
    }
    return Evaluation(averaged, labels, model.classes, scores)


def _predict(run: Run, model: Model, part: Split, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Logits float32 N×K of a single view, and averaged over the recipe's test-time views."""
    recipe, images = run.recipe, torch.from_numpy(np.array(part.images))
    logits = predict_logits(model.network, images, model.pixels, plan, recipe.views, recipe.unsure_share)
    return logits.single.numpy(), logits.averaged.numpy()


def write_scores(run: Run, evaluation: Evaluation, more: dict[str, Any]) -> dict[str, Any]:
    """Write results.json (the scores and `more`) and predictions.csv, seal the run, return the results.

    The caller owns the run's lock.
    """
    env = run.env
    results = {key: env[key] for key in ("seed", "data", "device", "dtype")} | evaluation.scores | more
    frame = metrics.predictions(evaluation.logits, evaluation.labels, evaluation.classes)
    write_text(run.path / "predictions.csv", frame.to_csv(index=False, float_format="%.6g"))
    run.write_json("results.json", results)
    run.seal_more("results.json", "predictions.csv")
    return results
