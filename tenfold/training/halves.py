"""A trial before training: each half of the training images is predicted by a network that the other half trained."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from tenfold.data.dataset import Dataset, Split
from tenfold.data.groups import unite
from tenfold.training.augment import derive_seed
from tenfold.training.callbacks import ProgressBar
from tenfold.training.device import DeviceConfig
from tenfold.training.feature_cache import logits_for
from tenfold.training.recipe import Recipe
from tenfold.training.trainer import Trainer, to_tensors


def can_halve(train: Split) -> bool:
    """Whether every class that has images has two or more, and of two groups where there are groups."""
    if train.groups is None:
        return int(np.unique(train.labels, return_counts=True)[1].min()) > 1
    groups = unite(train.groups.tolist())
    return all(len(np.unique(groups[train.labels == label])) > 1 for label in np.unique(train.labels))


def halves(train: Split, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The numbers of the images in two halves, once each way round: of every class, and of groups whole ones."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # here: it takes a second

    shuffle = derive_seed(seed, "fine-tuning") % 2**32
    if train.groups is None:
        return list(StratifiedKFold(2, shuffle=True, random_state=shuffle).split(train.labels, train.labels))
    groups = unite(train.groups.tolist())
    folds = StratifiedGroupKFold(2, shuffle=True, random_state=shuffle)
    return list(folds.split(train.labels, train.labels, groups))


def predict_half(
    recipe: Recipe, dataset: Dataset, train: Split, val: Split, seed: int, device_config: DeviceConfig
) -> tuple[Tensor, Tensor]:
    """Logits float32 N×K and labels int64 N of `val`, by a network that is trained on `train` as the recipe says."""
    half, part = replace(recipe.for_images(len(train)), val_size=0), replace(dataset, train=train, val_size=0)
    trainer = Trainer(half, part, [ProgressBar("trying")], seed=seed, device=device_config).fit()
    images, labels = to_tensors(val)
    predict = logits_for(half)
    predicted = predict(trainer.network, images, trainer.normalization, trainer.device_config, recipe.tta)
    return torch.as_tensor(predicted.averaged), labels
