"""How well images of a class that a network was never shown are told from those of its own classes.

    python benchmarks/rejection.py [--recipe fast89] [--out runs/rejection] [--count 10] [--json]

Each class of CIFAR-10 is left out in turn: a network is trained on the other nine, and scored on their test images
(known) and on those of the class that was left out (unknown). Compared are tenfold's distance, its confidence alone,
and, where pytorch-ood is installed (pip install pytorch-ood torchvision), the scores of that library on the same
features. Intervals are of Student's t over the classes. docs/background/rejection.md has the figures.
"""

from pathlib import Path

import numpy as np
import torch

import tenfold
from tenfold.data.dataset import Dataset, Split
from tenfold.training.device import select_device
from tenfold.training.features import extract_features
from tenfold.training.infer import predict_logits
from tenfold.training.weights import Model

VAL_SIZE = 4_500
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


class Network:
    """Features and logits of a run's network, in float32."""

    def __init__(self, model: Model):
        self.model, self.device = model, select_device("cpu", torch.float32)

    def __call__(self, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        pixels, model = torch.from_numpy(np.array(images)), self.model
        features = extract_features(model.network, pixels, model.normalization, self.device)
        return features, predict_logits(model.network, pixels, model.normalization, self.device).single


def own_scores(run: tenfold.Run, known: np.ndarray, unknown: np.ndarray) -> Scores:
    """What the exported file says."""
    model = run.predictor.model
    parts = [model.infer(images) for images in (known, unknown)]
    assert all(part.distance is not None for part in parts)
    return {
        "confidence": tuple(-part.probabilities.max(1) for part in parts),
        "distance": tuple(part.distance for part in parts),
    }


def library_scores(network: Network, train: Split, known: np.ndarray, unknown: np.ndarray) -> Scores:
    """Those of pytorch-ood, fitted on the training images as its documentation has it."""
    from pytorch_ood.detector import KNN, RMD, EnergyBased, Mahalanobis, MaxLogit, MaxSoftmax, ViM

    features, logits = network(train.images)
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
    parts = [network(images) for images in (known, unknown)]
    of_logits = {"MaxSoftmax": MaxSoftmax, "MaxLogit": MaxLogit, "EnergyBased": EnergyBased}
    scores = {name: tuple(kind(None).predict_features(part[1]) for part in parts) for name, kind in of_logits.items()}
    scores |= {name: tuple(kind.predict_features(part[0]) for part in parts) for name, kind in fitted.items()}
    return {f"pytorch-ood {name}": tuple(np.asarray(side) for side in pair) for name, pair in scores.items()}
