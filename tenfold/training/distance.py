"""How unlike the training images an image is to a network: a distance from its features, the inputs of layer `head`.

Two parts are added, each with mean 0 and standard deviation 1 on the training images before it is weighted; and a third
where the network names a layer for it:

- The smallest squared Mahalanobis distance to the mean of a class, with one covariance for all classes (Lee and others,
  2018), of features that are compressed by asinh: as they are, images of nothing lie near the middle of all classes,
  for their features are small. It finds images of a wholly different kind.
- The negative of the largest linear discriminant, which is how much likelier the features are under a class than where
  no feature is active, a distance relative to that (after Ren and others, 2021). It finds objects of no class, and
  counts three times.
- The squared Mahalanobis distance of early features (Lee and others take those of all layers): of each channel its mean
  over the image, compressed by asinh, with one mean and one covariance for all classes. It finds drawn things. Objects
  of no class are as near in it as known ones: so it is added only where it exceeds that of 95 % of the training images.

Covariances are those of the D principal axes, shrunk so that few images are enough (Ledoit and Wolf, 2004). What else
was tried is in docs/log.md. Shapes: N images, F features, C channels of early ones, D dimensions, K classes.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import safetensors
import safetensors.numpy

from tenfold.errors import ModelError, one_line

FILE = "distance.safetensors"  # in a run directory
DIMENSIONS = 64
COMPRESSION = 0.03
"""Where asinh turns from a line into a logarithm, as a share of the mean size of a feature."""
DISCRIMINANT_WEIGHT = 3.0
"""Chosen on held-out training images of CIFAR-10 and on images made by code; docs/log.md has others."""
EARLY_COMPRESSION, EARLY_USUAL = 0.3, 0.95
"""Of early features; and the share of training images to whose distance they add nothing. Chosen in the same way."""
_EARLY = "early."  # before the names of its arrays
MOST_REJECTED, CONFIDENCE = 0.05, 0.95
"""A threshold rejects no larger share of known images, with this probability over the draw of the validation images."""
_SMALLEST = 1e-12  # a variance, where nothing varies


@dataclass(frozen=True)
class EarlyDistance:
    """What early features add, all float32: `factor` [1], `projection` C×D and `offset` D, `limit` [1].

    Of means m with z = asinh(factor·m)·projection + offset, it is max(|z|² − limit, 0).
    """

    factor: np.ndarray
    projection: np.ndarray
    offset: np.ndarray
    limit: np.ndarray

    @classmethod
    def fit(cls, means: np.ndarray) -> Self:
        """Fit it to those of training images, float N×C."""
        factor = _compression(means, EARLY_COMPRESSION)
        compressed = np.arcsinh(factor * means.astype(np.float64))
        space = _Space.fit(compressed, np.zeros(len(means), np.int64))
        squares = np.square(space.points(compressed)).sum(1)
        scale = _Scaled.of(squares).factor
        root, limit = np.sqrt(scale), scale * np.quantile(squares, EARLY_USUAL)
        arrays = (np.array([factor]), root * space.projection, -root * space.mean @ space.projection, np.array([limit]))
        return cls(*(array.astype(np.float32) for array in arrays))

    def __call__(self, means: np.ndarray) -> np.ndarray:
        """float64 N of images with means float N×C."""
        points = np.arcsinh(self.factor * means.astype(np.float64)) @ self.projection + self.offset
        added: np.ndarray = np.maximum(np.square(points).sum(1) - self.limit, 0)
        return added


@dataclass(frozen=True)
class FeatureDistance:
    """What the distance is computed with, all float32: `factor` [1], `projection` F×D and `offset` D, `centers` D×K and
    `levels` K, `weights` F×K and `biases` K. early: None for networks without early features, and in older runs.

    Of features f with z = asinh(factor·f)·projection + offset, it is |z|² − max(z·centers + levels) − max(f·weights +
    biases), and what early features add: few steps, which every runtime has.
    """

    factor: np.ndarray
    projection: np.ndarray
    offset: np.ndarray
    centers: np.ndarray
    levels: np.ndarray
    weights: np.ndarray
    biases: np.ndarray
    early: EarlyDistance | None = None

    @classmethod
    def fit(cls, features: np.ndarray, labels: np.ndarray, classes: int, early: np.ndarray | None = None) -> Self:
        """Fit it to training images of K = `classes` classes: features float N×F, labels int N, early features N×C."""
        _, members = np.unique(labels, return_inverse=True)
        copies = np.resize(np.arange(members.max() + 1), classes)  # a class without images is where another one is
        copies[np.unique(labels)] = np.arange(members.max() + 1)
        factor = _compression(features, COMPRESSION)
        compressed = np.arcsinh(factor * features.astype(np.float64))
        space = _Space.fit(compressed, members)
        points, centers = space.points(compressed), space.centers[copies]
        mahalanobis = _Scaled.of(np.square(points).sum(1) - (2 * points @ centers.T - np.square(centers).sum(1)).max(1))
        linear = _Space.fit(features, members).discriminants()
        weights, biases = linear[0][:, copies], linear[1][copies]
        largest = _Scaled.of((features @ weights + biases).max(1))
        root, weight = np.sqrt(mahalanobis.factor), DISCRIMINANT_WEIGHT * largest.factor
        arrays = {
            "factor": np.array([factor]),
            "projection": root * space.projection,
            "offset": -root * space.mean @ space.projection,
            "centers": 2 * root * centers.T,
            "levels": mahalanobis.factor * (mahalanobis.mean - np.square(centers).sum(1)),
            "weights": weight * weights,
            "biases": weight * (biases - largest.mean),
        }
        added = None if early is None else EarlyDistance.fit(early)
        return cls(**{name: array.astype(np.float32) for name, array in arrays.items()}, early=added)

    def __call__(self, features: np.ndarray, early: np.ndarray | None = None) -> np.ndarray:
        """Distances float32 N of images with features float N×F and early ones float N×C, computed in float64."""
        wide = features.astype(np.float64)
        points = np.arcsinh(self.factor * wide) @ self.projection + self.offset
        nearest, largest = points @ self.centers + self.levels, wide @ self.weights + self.biases
        distances = np.square(points).sum(1) - nearest.max(1) - largest.max(1)
        if self.early is not None:
            assert early is not None, "it was fitted with early features"
            distances += self.early(early)
        return distances.astype(np.float32)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name; those of `early` begin with `early.`."""
        own = {name: array for name, array in vars(self).items() if name != "early"}
        early = {} if self.early is None else vars(self.early)
        return own | {f"{_EARLY}{name}": array for name, array in early.items()}

    def to_bytes(self) -> bytes:
        """The content of a safetensors file."""
        return safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in self.arrays.items()})

    @classmethod
    def from_bytes(cls, content: bytes, name: str) -> Self:
        """Read what `to_bytes` wrote; `name` stands for it in errors. Raises `ModelError`."""
        try:
            arrays = safetensors.numpy.load(content)
            early = {name.removeprefix(_EARLY): arrays.pop(name) for name in [*arrays] if name.startswith(_EARLY)}
            return cls(**arrays, early=EarlyDistance(**early) if early else None)
        except (safetensors.SafetensorError, TypeError) as error:
            raise ModelError(f"{name}: not the distance of a run ({one_line(error)})") from error


def _compression(values: np.ndarray, share: float) -> float:
    """What values are multiplied by, so that asinh turns at that share of their mean size."""
    return 1 / (share * float(np.abs(values).mean()) or 1.0)


@dataclass(frozen=True)
class _Scaled:
    """What brings values to mean 0 and standard deviation 1."""

    mean: float
    factor: float

    @classmethod
    def of(cls, values: np.ndarray) -> Self:
        return cls(float(values.mean()), 1 / (float(values.std()) or 1.0))


@dataclass(frozen=True)
class _Space:
    """Coordinates of N×F in which every class has covariance 1: (x − mean)·projection, D of them; centers: C×D."""

    mean: np.ndarray
    projection: np.ndarray
    centers: np.ndarray

    @classmethod
    def fit(cls, values: np.ndarray, members: np.ndarray) -> Self:
        """members: int N, the class of each, of C that all have some."""
        mean = values.mean(0, dtype=np.float64)
        axes = principal_axes(values - mean)
        reduced = (values - mean) @ axes
        means = np.stack([reduced[members == number].mean(0) for number in range(members.max() + 1)])
        variances, vectors = np.linalg.eigh(shrunk_covariance(reduced - means[members]))
        whitening = vectors / np.sqrt(variances)
        return cls(mean, axes @ whitening, means @ whitening)

    def points(self, values: np.ndarray) -> np.ndarray:
        """Coordinates N×D of N×F."""
        return (values - self.mean) @ self.projection

    def discriminants(self) -> tuple[np.ndarray, np.ndarray]:
        """Weights F×C and biases C: log-likelihoods of the classes relative to that of 0, on the axes between them."""
        count, width = self.centers.shape
        _, _, axes = np.linalg.svd(self.centers - self.centers.mean(0), full_matrices=False)
        apart = axes[: min(count - 1, width)].T if count > 1 else np.eye(width)
        projection = self.projection @ apart
        centers = self.centers @ apart + self.mean @ projection
        return projection @ centers.T, -np.square(centers).sum(1) / 2


def images_needed(most_rejected: float = MOST_REJECTED) -> int:
    """The fewest validation images for a threshold: were more than that share beyond it, one of these would be."""
    return math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-most_rejected))


def fit_threshold(distances: np.ndarray, most_rejected: float = MOST_REJECTED) -> float | None:
    """The smallest threshold of which it can be shown that at most that share of known images lies beyond it.

    distances: float N, of validation images. An exact binomial test says how many of them may lie beyond it: it is a
    tolerance limit (Wilks, 1941), whatever the distribution. None where there are too few images.
    """
    from scipy.special import bdtr

    count = len(distances)
    allowed = int((bdtr(np.arange(count), count, most_rejected) <= 1 - CONFIDENCE).sum())
    return float(np.sort(distances)[count - allowed]) if allowed else None


def principal_axes(centered: np.ndarray) -> np.ndarray:
    """Orthonormal axes F×D of the largest variance of N×F, D being `DIMENSIONS` or what so few images allow."""
    count, width = centered.shape
    _, axes = np.linalg.eigh(centered.T @ centered)
    return axes[:, ::-1][:, : max(1, min(DIMENSIONS, width, count // 2))]


def shrunk_covariance(centered: np.ndarray) -> np.ndarray:
    """Covariance D×D of N×D around 0, moved towards a multiple of the identity as far as N asks for.

    How far is what Ledoit and Wolf (2004) found best in the mean square; as scikit-learn's `LedoitWolf` computes it.
    """
    count, width = centered.shape
    covariance = centered.T @ centered / count
    variance = np.trace(covariance) / width
    spread = np.square(covariance - variance * np.eye(width)).sum()
    noise = (np.square(np.square(centered).sum(1)).mean() - np.square(covariance).sum()) / count
    shrinkage = min(1.0, max(0.0, noise / spread)) if spread > 0 else 1.0
    return (1 - shrinkage) * covariance + (shrinkage * variance + _SMALLEST) * np.eye(width)
