"""Suspected label errors: planted ones are found, and cleanlab's choice is what the paper says it is."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tenfold.data.dataset import Split
from tenfold.data.shapes import make_shapes
from tenfold.errors import DataError
from tenfold.evaluation.labels import FOLDS, assign_folds, assign_groups, find_issues, predict_out_of_fold, recipe_for
from tenfold.training.device import DeviceConfig
from tenfold.training.networks import WhitenedSpec
from tenfold.training.recipe import Stage

CPU = DeviceConfig(torch.device("cpu"), torch.float32, 1, ())


def test_folds_are_even_in_every_class() -> None:
    labels = make_shapes(train=997, test=1).train.labels
    folds = assign_folds(labels, 10)
    counts = np.array([[(folds[labels == k] == fold).sum() for fold in range(FOLDS)] for k in range(10)])
    assert counts.sum() == 997 and np.ptp(counts, axis=1).max() <= 1
    assert np.array_equal(folds, assign_folds(labels, 10))


def test_a_group_is_in_one_fold() -> None:
    train = make_shapes(train=240, test=1).train
    grouped = replace(train, groups=np.array([f"g{row // 6}" for row in range(240)], object))
    folds = assign_groups(grouped, 10)
    assert set(folds.tolist()) == set(range(FOLDS))
    assert all(len(set(folds[row : row + 6].tolist())) == 1 for row in range(0, 240, 6))
    with pytest.raises(DataError, match="fewer groups of training images than cross-validation needs"):
        assign_groups(replace(train, groups=np.full(240, "one", object)), 10)


def test_a_class_with_one_image_cannot_be_checked() -> None:
    with pytest.raises(DataError, match="fewer training images than cross-validation needs: 1 of 2"):
        assign_folds(np.array([0, 0, 0, 1]), 2)


def test_issues_are_as_many_as_the_paper_counts() -> None:
    """An image counts where a class other than its own is the largest of those that are above their threshold.

    A class's threshold is the mean probability of it among the images that are called so.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 400)
    logits = rng.normal(size=(400, 4))
    logits[np.arange(400), np.where(rng.random(400) < 0.1, (labels + 1) % 4, labels)] += 3
    predicted = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    thresholds = np.array([predicted[labels == k, k].mean() for k in range(4)])
    above = np.where(predicted >= thresholds, predicted, 0)
    counted = [n for n in range(400) if above[n].any() and above[n].argmax() != labels[n]]
    counted = [n for n in counted if predicted[n].argmax() != labels[n]]  # believed as it is called: no issue
    own = predicted[np.arange(400), labels]
    issues = find_issues(labels, predicted)
    assert [issue.index for issue in issues] == np.argsort(own)[: len(counted)].tolist() and 20 < len(issues) < 60
    first = issues[0]
    assert (first.given, first.suspected) == (labels[first.index], predicted[first.index].argmax())
    assert first.given_probability == pytest.approx(own.min())
    assert first.suspected_probability == pytest.approx(predicted[first.index].max())


@pytest.mark.parametrize("size", [8, 32])
def test_the_recipe_fits_the_images(size: int) -> None:
    train = make_shapes(train=500, test=1, size=size).train
    assert (recipe_for(train).low_res_fraction, recipe_for(train).images) == (0, 500)


@pytest.mark.parametrize(("size", "fraction"), [(8, 0), (32, 0.435)])
def test_images_of_few_pixels_are_not_shrunk(size: int, fraction: float) -> None:
    train = make_shapes(train=2_000, test=1, size=size).train
    assert recipe_for(train).low_res_fraction == pytest.approx(fraction)


@pytest.mark.slow
def test_planted_errors_are_found() -> None:
    """5 % of the labels of drawn shapes are turned into others at random."""
    train = make_shapes(train=800, test=1, size=16).train
    rng = np.random.default_rng(0)
    flipped = rng.choice(800, 40, replace=False)
    labels = train.labels.copy()
    labels[flipped] = (labels[flipped] + rng.integers(1, 10, 40)) % 10
    recipe = replace(recipe_for(train), network=WhitenedSpec(widths=(16, 32)), stages=(Stage(8.0, 0.24, 0.0),))
    shares: list[float] = []
    predicted = predict_out_of_fold(Split(train.images, labels), 10, CPU, recipe, shares.append)
    assert sum(shares) == pytest.approx(1) and predicted.sum(axis=1) == pytest.approx(1)
    found = {issue.index for issue in find_issues(labels, predicted)}
    right = len(found & set(flipped.tolist()))
    assert right / 40 >= 0.5 and right / len(found) >= 0.9, (right, len(found))
