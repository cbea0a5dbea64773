"""The head of a pretrained network: multinomial logistic regression on its features.

Scikit-learn fits it; how strongly weights are held back (C) is chosen by cross-validation. Shapes: N images, F
features, K classes.
"""

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from tenfold.console import progress
from tenfold.data.groups import unite
from tenfold.training.augment import Normalization
from tenfold.training.device import DeviceConfig
from tenfold.training.feature_cache import cached_features
from tenfold.training.images import ImageTensor
from tenfold.training.networks.module import Network

STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1)
"""Values of C that are tried, of features as they are; docs/log.md has what was found on draws of CIFAR-10."""
BEFORE_FINE_TUNING = 0.001
"""The C where fine-tuning follows: a head that is sure of itself leaves the layers below nothing to learn."""
FOLDS = 5
MOST_FOR_FOLDS = 2000
"""Images: of more, one fold is held out instead of each in turn."""
_NEVER = -30.0  # logit of a class that no image is of


def set_logistic_head(
    network: Network,
    images: ImageTensor,
    labels: Tensor,
    normalization: Normalization,
    device_config: DeviceConfig,
    strength: float | None = None,
    weights: Tensor | None = None,
    groups: np.ndarray | None = None,
) -> None:
    """Set a network's layer `head` to the regression on images uint8 N×H×W×3 with labels int64 N.

    strength: C of the regression; by default that of the smallest loss on held-out images. weights: factors of the
    images' losses, float N. groups: text N, see `choose_strength`.
    """
    with progress("features", 2 * len(images)) as bar:
        plain, mirrored = (
            cached_features(network, images, normalization, device_config, bar, view).numpy() for view in (False, True)
        )
    head = network.get_submodule("head")
    classes = len(head.get_parameter("bias"))
    factors = None if weights is None else weights.cpu().numpy()
    weight, bias = fit_head(plain, mirrored, labels.cpu().numpy(), classes, strength, factors, groups)
    with torch.no_grad():
        head.get_parameter("weight").copy_(torch.from_numpy(weight))
        head.get_parameter("bias").copy_(torch.from_numpy(bias))


def fit_head(
    features: np.ndarray,
    mirrored: np.ndarray,
    labels: np.ndarray,
    classes: int,
    strength: float | None = None,
    factors: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Weights float32 K×F and biases float32 K of the regression on N images and their mirror images.

    features, mirrored: float N×F; labels: int N; strength: C, by default chosen; factors: of the losses, float N;
    groups: text N, see `choose_strength`. A class without images is never predicted.
    """
    present = np.unique(labels)
    weight, bias = np.zeros((classes, features.shape[1])), np.full(classes, _NEVER)
    if len(present) == 1:
        bias[present] = 0.0
        return weight.astype(np.float32), bias.astype(np.float32)
    strength = choose_strength(features, mirrored, labels, factors, groups) if strength is None else strength
    weight[present], bias[present] = _fit(features, mirrored, labels, strength, factors)
    return weight.astype(np.float32), bias.astype(np.float32)


def choose_strength(
    features: np.ndarray,
    mirrored: np.ndarray,
    labels: np.ndarray,
    factors: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> float:
    """The C with the smallest loss on held-out images; a middle one where a class has too few to hold one out.

    groups: text N, "" for none; whole groups are held out.
    """
    losses, present = np.zeros(len(STRENGTHS)), np.unique(labels)
    folds = [*_folds(labels, None if groups is None else unite(groups.tolist()))]
    for train, val in folds:
        for number, strength in enumerate(STRENGTHS):
            own = None if factors is None else factors[train]
            weight, bias = _fit(features[train], mirrored[train], labels[train], strength, own)
            losses[number] += _loss((features[val] + mirrored[val]) / 2 @ weight.T + bias, labels[val], present)
    return STRENGTHS[int(losses.argmin()) if folds else len(STRENGTHS) // 2]


def _folds(labels: np.ndarray, groups: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Numbers of the images to train on and of those held out, at most `FOLDS` times; of groups (int N) whole ones."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # here and below: a second that few need

    units = np.arange(len(labels)) if groups is None else groups
    present = np.unique(labels)
    fewest = min(len(np.unique(units[labels == label])) for label in present)
    if fewest < 2:
        return
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    folds = kind(min(FOLDS, fewest), shuffle=True, random_state=0).split(labels, labels, groups)
    for number, (train, val) in enumerate(folds):
        if number and len(labels) > MOST_FOR_FOLDS:
            return
        if len(val) and len(np.unique(labels[train])) == len(present):  # all groups of a class may be in one fold
            yield train, val


def _fit(
    features: np.ndarray, mirrored: np.ndarray, labels: np.ndarray, strength: float, factors: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Weights P×F and biases P of the P classes that are present."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    both = np.concatenate([features, mirrored])
    mean = both.mean(0)
    regression = LogisticRegression(C=strength, max_iter=300, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # near enough for a start
        twice = None if factors is None else np.concatenate([factors, factors])
        regression.fit(both - mean, np.concatenate([labels, labels]), sample_weight=twice)
    weight, bias = regression.coef_, regression.intercept_
    if len(weight) == 1:  # of two classes it keeps the difference only
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias - weight @ mean


def _loss(logits: np.ndarray, labels: np.ndarray, present: np.ndarray) -> float:
    """Sum of the cross-entropies of N images: logits N×P of the classes that are `present`, int P."""
    from sklearn.metrics import log_loss

    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return len(labels) * float(log_loss(labels, shifted / shifted.sum(1, keepdims=True), labels=present))
