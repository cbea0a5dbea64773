"""A scored run and its data → its feature distance with the threshold, written into the run directory.

All in float32, as the exported file computes it, and without test-time augmentation.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from tenfold.console import log_info, progress
from tenfold.data.dataset import Dataset, Split
from tenfold.data.stored import Images
from tenfold.data.unknown import make_unknown
from tenfold.evaluation import metrics
from tenfold.evaluation.rejection import Rejection, Scores, format_rejection, measure_rejection
from tenfold.files import format_object
from tenfold.training.device import DeviceConfig, select_device
from tenfold.training.distance import FILE, FeatureDistance
from tenfold.training.features import Activations, activations, has_features
from tenfold.training.holdout import split
from tenfold.training.images import as_images
from tenfold.training.run import Run
from tenfold.training.weights import Model

MOST_IMAGES, FEWEST_IMAGES = 5_000, 2_000
"""Training images that the distance is fitted on: of up to 64 pixels a side, and of large ones."""
LARGE_SIDE = 64
_TEST_SHARE, _UNKNOWN_SHARE = 5, 20  # a fifth as many test images, a twentieth as many of each unknown kind


def add_rejection(run: Run, dataset: Dataset, device: str = "auto") -> Rejection | None:
    """Fit the distance of a scored run on its own data; write it, and what it does. The caller owns the run's lock.

    None, and a line that says so, for a network without a linear layer `head`. Raises `ModelError`, `StorageError`.
    """
    device_config = select_device(device, torch.float32)
    model, results = run.load_model(device_config), run.require_scores()
    if not has_features(model.network):
        log_info("no distance for predict --reject: the network has no linear layer called head")
        return None
    temperature, images = (results.get("calibration") or {}).get("temperature", 1.0), _choose(run, dataset)
    with progress("rejection", images.count) as bar:
        distance, rejection = _fit(_Network(model, device_config, bar, temperature), images)
    changed = format_object(results | {"rejection": rejection.to_dict()})
    run.rewrite_in_manifest({FILE: distance.to_bytes(), "results.json": changed})
    for sentence in format_rejection(rejection):
        log_info(sentence)
    return rejection


@dataclass(frozen=True)
class _Images:
    """The images that are looked at, no more than needed."""

    train: Split
    val: Split
    test: Split
    unknown: dict[str, np.ndarray]

    @property
    def count(self) -> int:
        return len(self.train) + len(self.val) + len(self.test) + sum(map(len, self.unknown.values()))


def _choose(run: Run, dataset: Dataset) -> _Images:
    size, classes = run.description.size, run.description.classes
    most = max(FEWEST_IMAGES, min(MOST_IMAGES, MOST_IMAGES * LARGE_SIDE**2 // size**2))
    train, val = split(dataset, run.recipe, run.env["seed"])
    unknown = make_unknown(size, classes, most // _UNKNOWN_SHARE)
    val = dataset.test[:0] if val is None else val
    return _Images(_some(train, most), _some(val, most), _some(dataset.test, most // _TEST_SHARE), unknown)


def _some(part: Split, most: int) -> Split:
    """At most so many images, evenly spread."""
    return part[np.linspace(0, len(part) - 1, min(most, len(part))).astype(int)]


@dataclass(frozen=True)
class _Network:
    """A network, and where and how it is asked."""

    model: Model
    device_config: DeviceConfig
    on_batch: Callable[[float], None]
    temperature: float

    def look(self, images: Images) -> Activations:
        pixels, model = as_images(images), self.model
        return activations(model.network, pixels, model.normalization, self.device_config, self.on_batch)

    def score(self, distance: FeatureDistance, images: Images) -> Scores:
        features, early, logits = self.look(images)
        distances = distance(features.numpy(), None if early is None else early.numpy())
        return Scores(distances, metrics.probabilities(logits.numpy(), self.temperature).max(1))


def _fit(network: _Network, images: _Images) -> tuple[FeatureDistance, Rejection]:
    features, early, _ = network.look(images.train.images)
    labels, means = images.train.labels.astype(np.int64), None if early is None else early.numpy()
    distance = FeatureDistance.fit(features.numpy(), labels, len(network.model.classes), means)
    val = network.score(distance, images.val.images).distances if len(images.val) else np.empty(0)
    test = network.score(distance, images.test.images)
    unknown = {kind: network.score(distance, pixels) for kind, pixels in images.unknown.items()}
    return distance, measure_rejection(val, test, unknown)
