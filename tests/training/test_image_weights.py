"""Weights and groups of images in training: whose loss counts how much, and who is held out together."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tenfold.data.dataset import Dataset, Split
from tenfold.data.shapes import make_shapes
from tenfold.errors import DataError, UsageError
from tenfold.training.halves import can_halve, halves
from tenfold.training.holdout import split
from tenfold.training.imbalance import oversample
from tenfold.training.logistic_head import fit_head
from tenfold.training.loss import batch_loss, image_losses, loss_weights
from tenfold.training.networks import WhitenedSpec
from tenfold.training.recipe import Recipe, Stage
from tenfold.training.trainer import Trainer

SHAPES = make_shapes(train=120, test=10)
RECIPE = Recipe(
    "weighted",
    WhitenedSpec(widths=(8, 16), whitening_pairs=4),
    (Stage(1.0, 0.1, 0.05),),
    batch_size=20,
    whiten_bias_epochs=0.5,
    label_smoothing=0.1,
)


def weighted(weights: np.ndarray | None, recipe: Recipe = RECIPE, train: Split = SHAPES.train) -> Trainer:
    data = replace(SHAPES, train=replace(train, weights=weights))
    return Trainer(recipe, data, device="cpu")


def test_weights_have_a_mean_of_one() -> None:
    found = loss_weights(replace(SHAPES.train[:4], weights=np.array([0.0, 1.0, 1.0, 6.0])))
    assert found is not None and found.tolist() == [0.0, 0.5, 0.5, 3.0]
    assert loss_weights(replace(SHAPES.train[:4], weights=np.full(4, 7.0))) is None


def test_a_weight_is_a_factor_of_its_images_loss() -> None:
    """Two classes and logits (0, ln 3): probabilities 1/4 and 3/4."""
    logits = torch.tensor([[0.0, np.log(3.0)]] * 2, dtype=torch.float32)
    labels, weights = torch.tensor([0, 1]), torch.tensor([0.5, 1.5])
    right, wrong = np.log(4 / 3), np.log(4)
    assert image_losses(logits, labels, weights).tolist() == pytest.approx([0.5 * wrong, 1.5 * right])
    assert batch_loss(logits, labels, weights).item() == pytest.approx((0.5 * wrong + 1.5 * right) / 2)
    assert batch_loss(logits, labels, None).item() == pytest.approx((wrong + right) / 2)


def test_a_step_has_the_weighted_loss() -> None:
    weights = np.random.default_rng(0).uniform(0, 3, 120)
    trainer, twin = weighted(weights), weighted(weights)
    batch, labels, indices = twin.next_batch()
    with torch.no_grad(), twin.device_config.autocast():
        logits = twin.network(batch).float()
    losses = F.cross_entropy(logits, labels, label_smoothing=0.1, reduction="none").numpy()
    trainer.train_step()
    expected = (losses * weights[indices.numpy()] / weights.mean()).mean()
    assert trainer.log[0, 0].item() == pytest.approx(expected, rel=1e-5)
    assert expected != pytest.approx(losses.mean(), rel=1e-3)


def test_equal_weights_leave_the_bits_as_they_are() -> None:
    plain, equal = weighted(None).fit(), weighted(np.full(120, 0.3)).fit()
    for one, other in zip(plain.network.parameters(), equal.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_an_image_of_weight_0_teaches_nothing() -> None:
    """Images with and without wrong labels give the same network where these images weigh nothing."""
    weights = np.ones(120)
    weights[::3] = 0
    wrong = SHAPES.train.labels.copy()
    wrong[::3] = (wrong[::3] + 1) % 10
    one = weighted(weights).fit()
    other = weighted(weights, train=replace(SHAPES.train, labels=wrong)).fit()
    for first, second in zip(one.network.parameters(), other.network.parameters(), strict=True):
        assert torch.equal(first, second)


def test_the_mean_is_of_the_training_images() -> None:
    """Validation images, here the last twenty, have no part in it."""
    weights = np.r_[np.tile([1.0, 3.0], 50), np.full(20, 1000.0)]
    trainer = weighted(weights, replace(RECIPE, val_size=20))
    assert trainer.weights is not None and trainer.weights.tolist() == pytest.approx([0.5, 1.5] * 50)


def test_images_of_rare_classes_keep_their_weights() -> None:
    rows = np.r_[np.flatnonzero(SHAPES.train.labels == 0)[:2], np.flatnonzero(SHAPES.train.labels == 1)[:12]]
    train, weights = SHAPES.train[rows], np.arange(1.0, 15.0)
    trainer = weighted(weights, replace(RECIPE, oversample=0.5, batch_size=10), train)
    cycle = oversample(torch.from_numpy(train.labels.astype(np.int64)), 0.5)
    assert len(cycle) > 14 and trainer.weights is not None
    assert trainer.weights.tolist() == pytest.approx((weights / weights.mean())[cycle.numpy()].tolist())


def test_images_are_pruned_by_the_loss_that_counts() -> None:
    weights = np.r_[np.zeros(60), np.ones(60)]
    trainer = weighted(weights, replace(RECIPE, prune_fraction=0.5))
    for _ in range(6):
        trainer.train_step()
    assert (trainer.sampler.losses[:60] == 0).all() and (trainer.sampler.losses[60:] > 0).all()


def test_the_head_of_a_pretrained_network_counts_an_image_twice() -> None:
    """A weight of 2 is as good as the image twice."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    features = rng.normal(size=(60, 5)) + 2 * np.eye(5)[labels]
    twice = np.r_[np.arange(60), np.arange(20)]
    factors = np.r_[np.full(20, 2.0), np.ones(40)]
    one = fit_head(features, features, labels, 3, 0.1, factors)
    other = fit_head(features[twice], features[twice], labels[twice], 3, 0.1)
    plain = fit_head(features, features, labels, 3, 0.1)
    for mine, theirs, without in zip(one, other, plain, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=0.01)
        assert np.abs(mine - without).max() > 0.02


# --- groups -----------------------------------------------------------------------------------------------------------


def grouped(val_size: int = 0) -> Dataset:
    """Thirty groups of four images."""
    groups = np.array([f"g{row // 4}" for row in range(120)], object)
    return replace(SHAPES, train=replace(SHAPES.train, groups=groups), val_size=val_size)


def test_whole_groups_are_held_out() -> None:
    found = []
    for seed in range(3):
        train, val = split(grouped(), replace(RECIPE, val_size=24), seed)
        assert val is not None and train.groups is not None and val.groups is not None
        assert not set(train.groups) & set(val.groups) and len(train) + len(val) == 120
        assert 16 <= len(val) <= 32
        found.append(sorted(set(val.groups)))
    assert found[0] != found[1]


def test_the_data_sets_own_validation_images_are_held_out_as_they_are() -> None:
    train, val = split(grouped(val_size=10), replace(RECIPE, val_size=10), 0)
    assert val is not None and val.groups is not None and len(train) == 110
    assert val.groups.tolist() == [f"g{row // 4}" for row in range(110, 120)]


def test_a_single_group_cannot_be_held_out() -> None:
    data = replace(SHAPES, train=replace(SHAPES.train, groups=np.full(120, "one", object)))
    with pytest.raises(DataError, match="each class is in a single group"):
        split(data, replace(RECIPE, val_size=24), 0)
    with pytest.raises(UsageError, match="leaves nothing"):
        split(data, replace(RECIPE, val_size=120), 0)


def test_halves_for_a_trial_keep_groups_whole() -> None:
    train = grouped().train
    assert train.groups is not None
    for one, other in halves(train, 0):
        assert not set(train.groups[one]) & set(train.groups[other]) and len(one) + len(other) == 120


def test_a_class_in_one_group_cannot_be_halved() -> None:
    train = grouped().train
    assert train.groups is not None and can_halve(train)
    one_group = np.where(train.labels == 3, "all", train.groups)
    assert not can_halve(replace(train, groups=one_group))


def test_columns_that_do_not_fit_are_refused() -> None:
    for column, values in {"weights": np.ones(3), "groups": ["a"] * 120, "digests": np.array(["a"])}.items():
        with pytest.raises(DataError, match=f"{column} must be an array of 120, one an image"):
            replace(SHAPES.train, **{column: values})  # type: ignore[arg-type]
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(DataError, match="weights must be finite numbers of 0 or more"):
            replace(SHAPES.train, weights=np.full(120, bad))
