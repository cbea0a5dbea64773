"""How well images of a class that a network was never shown are distinguished from those of its own classes.

    python benchmarks/rejection.py [--recipe fast89] [--out runs/rejection] [--without NAME ...] [--json]

Each class of CIFAR-10 is left out in turn: a network is trained on the other nine, and scored on their test images
(known) and on those of the class that was left out (unknown). Compared are tenfold's distance, its confidence alone,
and, where pytorch-ood is installed (pip install pytorch-ood torchvision), the scores of that library on the same
features. Intervals are of Student's t over the classes. docs/background/rejection.md has the figures.
"""

import argparse
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import torch

import tenfold
from tenfold.console import log_info
from tenfold.data.dataset import Dataset, Split
from tenfold.evaluation.detection import auroc, fpr_at_95
from tenfold.training.device import select_device
from tenfold.training.features import activations
from tenfold.training.weights import Model

VAL_SIZE = 4_500
FITTED_ON = 10_000  # training images, for the scores of pytorch-ood
Scores = dict[str, tuple[np.ndarray, np.ndarray]]
"""By method: scores of known and of unknown images, the larger, the less known."""


def without(part: Split, label: int) -> Split:
    """All images but those of one class; the labels after it move up."""
    labels = np.array(part.labels)
    kept = np.flatnonzero(labels != label)
    return Split(np.array(part.images[kept]), (labels[kept] - (labels[kept] > label)).astype(np.uint8))


def leave_out(data: Dataset, label: int) -> Dataset:
    """The data set without one class."""
    classes = tuple(name for number, name in enumerate(data.classes) if number != label)
    name = f"{data.name}-without-{data.classes[label]}"
    return Dataset(name, classes, without(data.train, label), without(data.test, label))


def train(recipe: str, data: Dataset, path: Path, seed: int) -> tenfold.Run:
    """The run at `path`, trained first where there is none."""
    if path.exists():
        return tenfold.Run.open(path)
    return tenfold.train(recipe, data, path, seed=seed, val_size=VAL_SIZE, report=False, progress=False)


def look(model: Model, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and logits of a network, in float32."""
    device = select_device("cpu", torch.float32)
    seen = activations(model.network, torch.from_numpy(np.array(images)), model.normalization, device)
    return seen.features, seen.logits


def own_scores(run: tenfold.Run, data: Dataset, unknown: np.ndarray) -> Scores:
    """What the exported file says; it is written first where it is missing."""
    if not (run.path / "model.onnx").exists():
        run.export(data=data)
    model = run.predictor.model
    parts = [model.infer(images) for images in (data.test.images, unknown)]
    assert all(part.distance is not None for part in parts)
    return {
        "confidence": tuple(-part.probabilities.max(1) for part in parts),
        "distance": tuple(part.distance for part in parts),
    }


def library_scores(model: Model, train: Split, known: np.ndarray, unknown: np.ndarray) -> Scores:
    """Those of pytorch-ood, fitted on the training images as its documentation has it."""
    from pytorch_ood.detector import KNN, RMD, EnergyBased, Mahalanobis, MaxLogit, MaxSoftmax, ViM

    features, logits = look(model, train.images)
    labels = torch.from_numpy(np.array(train.labels).astype(np.int64))
    head = torch.linalg.lstsq(features.double(), logits.double()).solution.T.float()
    fitted = {
        "Mahalanobis": Mahalanobis(None),
        "RMD": RMD(None),
        "ViM": ViM(None, 64, head, torch.zeros(len(head))),
        "KNN": KNN(None),
    }
    for detector in fitted.values():
        detector.fit_features(features, labels)
    parts = [look(model, images) for images in (known, unknown)]
    of_logits = {"MaxSoftmax": MaxSoftmax, "MaxLogit": MaxLogit, "EnergyBased": EnergyBased}
    scores = {name: tuple(kind(None).predict_logits(part[1]) for part in parts) for name, kind in of_logits.items()}
    scores |= {name: tuple(kind.predict_features(part[0]) for part in parts) for name, kind in fitted.items()}
    return {f"pytorch-ood {name}": tuple(np.asarray(side) for side in pair) for name, pair in scores.items()}


def interval(values: list[float]) -> str:
    """The mean and its 95 % interval (Student's t)."""
    from scipy.stats import t

    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return f"{np.mean(values):+.4f} ± {half:.4f}"


def measure(recipe: str, data: Dataset, label: int, out: Path) -> dict[str, dict[str, float]]:
    """AUROC and FPR95 by method, where the class `label` is left out."""
    known = leave_out(data, label)
    run = train(recipe, known, out / f"without-{data.classes[label]}", label)
    if not run.has_distance:  # trained by hand, without what follows the scores
        run.evaluate(known)
    unknown = data.test.images[np.array(data.test.labels) == label]
    scores = own_scores(run, known, unknown)
    if importlib.util.find_spec("pytorch_ood"):
        model = run.load_model(select_device("cpu", torch.float32))
        fitted_on = known.train[:-VAL_SIZE][:: len(known.train) // FITTED_ON]
        scores |= library_scores(model, fitted_on, known.test.images, unknown)
    return {name: {"auroc": auroc(*pair), "fpr95": fpr_at_95(*pair)} for name, pair in scores.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="fast89")
    parser.add_argument("--out", type=Path, default=Path("runs/rejection"))
    parser.add_argument("--without", nargs="+", metavar="NAME", help="classes to leave out in turn, by default all")
    parser.add_argument("--json", action="store_true")
    words = parser.parse_args()
    data, found = tenfold.load("cifar10"), {}
    for label in map(data.classes.index, words.without or data.classes):
        found[data.classes[label]] = row = measure(words.recipe, data, label, words.out)
        log_info(f"without {data.classes[label]}: {row['confidence']['auroc']:.4f}, {row['distance']['auroc']:.4f}")
    if words.json:
        print(json.dumps(found))
        return
    rows = list(found.values())
    print(f"{'':24} {'AUROC':>7} {'FPR95':>7}  AUROC, difference to the confidence, n = {len(rows)}")
    for name in rows[0]:
        mean = {figure: np.mean([row[name][figure] for row in rows]) for figure in ("auroc", "fpr95")}
        differences = [row[name]["auroc"] - row["confidence"]["auroc"] for row in rows]
        print(f"{name:24} {mean['auroc']:7.4f} {mean['fpr95']:7.1%}  {interval(differences)}")


if __name__ == "__main__":
    sys.exit(main())
