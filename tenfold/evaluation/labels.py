"""Label issues: confident learning (Northcutt, Jiang and Chuang, 2021) as cleanlab computes it.

Training images are predicted by cross-validation: in turn, a fold is left out and `fast89`, or the logistic head of a
pretrained network, is trained on the others.
Test images are predicted by the run itself.

Shapes: N images, K classes; probabilities are float N×K.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from tenfold.data.dataset import Dataset, Split
from tenfold.data.groups import unite
from tenfold.errors import DataError
from tenfold.evaluation.metrics import probabilities
from tenfold.training.augment import make_generator
from tenfold.training.callbacks import Callback
from tenfold.training.device import DeviceConfig
from tenfold.training.feature_cache import logits_for
from tenfold.training.imbalance import fit_recipe
from tenfold.training.recipe import Recipe
from tenfold.training.recipes import FAST89
from tenfold.training.trainer import Trainer, to_tensors

FOLDS = 4
LEAST_IMAGES = 2
"""Of every class, so that one is left to train on."""


@dataclass(frozen=True)
class Issue:
    """Image `index` is labelled `given`, but predicted `suspected`; with the probability of each."""

    index: int
    given: int
    suspected: int
    given_probability: float
    suspected_probability: float


def recipe_for(train: Split, own: Recipe = FAST89) -> Recipe:
    """`fast89`, fitted to so many images of that size; for a run whose `own` recipe has a logistic head, that head."""
    if own.head_init == "logistic":
        return replace(fit_recipe(own, train), fine_tune="off")
    small = train.images.shape[1] >= FAST89.low_res_size
    return fit_recipe(FAST89 if small else replace(FAST89, low_res_fraction=0.0), train)


def predict_out_of_fold(
    train: Split,
    classes: int,
    device_config: DeviceConfig,
    recipe: Recipe,
    on_share: Callable[[float], None] = lambda share: None,
) -> np.ndarray:
    """Probabilities of every training image by a network trained without it. `on_share` receives shares of the work.

    Raises `DataError` where a class has too few images, and as `Trainer.fit` does.
    """
    folds = assign_folds(train.labels, classes) if train.groups is None else assign_groups(train, classes)
    found = np.zeros((len(train), classes))
    for fold in np.unique(folds):
        own, others = train[folds == fold], train[folds != fold]
        data = Dataset(f"fold {fold}", tuple(map(str, range(classes))), others, own)
        fitted = Trainer(recipe, data, [_ReportShare(on_share)], seed=int(fold), device=device_config).fit()
        images, _ = to_tensors(own)
        logits = logits_for(recipe)(
            fitted.network, images, fitted.normalization, device_config, recipe.tta, recipe.tta_fraction
        )
        found[folds == fold] = probabilities(logits.averaged.numpy())
    return found


class _ReportShare(Callback):
    """Tells which share of the work a step was."""

    def __init__(self, on_share: Callable[[float], None]):
        self.on_share = on_share

    def on_step_end(self, trainer: Trainer) -> None:
        """Report one step's share."""
        self.on_share(1 / trainer.schedule.total / FOLDS)


def assign_folds(labels: np.ndarray, classes: int) -> np.ndarray:
    """A fold for each of N images, int64 in [0, FOLDS), every class spread evenly. Raises `DataError`."""
    counts = np.bincount(labels, minlength=classes)
    if counts.min() < LEAST_IMAGES:
        raise DataError(
            f"a class has fewer training images than cross-validation needs: {counts.min()} of {LEAST_IMAGES}"
        )
    order = torch.randperm(len(labels), generator=make_generator(0, "folds")).numpy()
    order = order[np.argsort(labels[order], kind="stable")]
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    folds = np.empty(len(labels), np.int64)
    folds[order] = (np.arange(len(labels)) - starts) % FOLDS
    return folds


def assign_groups(train: Split, classes: int) -> np.ndarray:
    """As `assign_folds`, of images in groups, each of which is in one fold."""
    from sklearn.model_selection import StratifiedGroupKFold

    assert train.groups is not None
    groups = unite(train.groups.tolist())
    for label in range(classes):
        if len(set(groups[train.labels == label].tolist())) < LEAST_IMAGES:
            raise DataError("a class has fewer groups of training images than cross-validation needs")
    folds = np.empty(len(train), np.int64)
    splitter = StratifiedGroupKFold(min(FOLDS, len(set(groups.tolist()))), shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a class in fewer groups than there are folds
        for fold, (_, own) in enumerate(splitter.split(train.labels, train.labels, groups)):
            folds[own] = fold
    return folds


def find_issues(labels: np.ndarray, predicted: np.ndarray) -> list[Issue]:
    """Label issues, the least probable given label first. `labels` N integers, `predicted` float N×K.

    Confident learning says how many; they are the images whose given label is the least probable, which finds more
    planted errors than the images that it counts (docs/guides/audit.md). Raises `DataError` where all labels are the
    same.
    """
    if len(np.unique(labels)) < 2:
        raise DataError("all labels are the same")
    from cleanlab.filter import find_label_issues

    found = find_label_issues(
        labels.astype(np.int64),
        predicted,
        filter_by="low_self_confidence",
        return_indices_ranked_by="self_confidence",
        n_jobs=1,
    )
    return [_issue(int(index), labels, predicted) for index in found]


def _issue(index: int, labels: np.ndarray, predicted: np.ndarray) -> Issue:
    given, suspected = int(labels[index]), int(predicted[index].argmax())
    return Issue(index, given, suspected, float(predicted[index, given]), float(predicted[index, suspected]))
