"""Rare classes: how images count in the loss and in the head, and what `balance` does to a recipe."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tenfold.data.dataset import Dataset, Split
from tenfold.data.shapes import make_shapes
from tenfold.errors import UsageError
from tenfold.training import balancing
from tenfold.training.balancing import check_balance, decide_balance, mean_recall, with_balance
from tenfold.training.device import DeviceConfig
from tenfold.training.imbalance import class_factors
from tenfold.training.loss import loss_weights
from tenfold.training.recipe import Recipe
from tenfold.training.recipes import FAST89, PRETRAINED
from tests.support.process import Invoke

CPU = DeviceConfig(torch.device("cpu"), torch.float32, 1, ())
SHAPES = make_shapes(train=400, test=20)


def of_classes(*counts: int) -> Split:
    """So many images of each class."""
    numbers = np.concatenate([np.flatnonzero(SHAPES.train.labels == k)[:n] for k, n in enumerate(counts)])
    return SHAPES.train[np.sort(numbers)]


def dataset(*counts: int) -> Dataset:
    return replace(SHAPES, train=of_classes(*counts))


def test_images_of_rare_classes_count_more() -> None:
    """16 of 64 is rare, 32 is not."""
    labels = np.repeat([0, 1, 2], [64, 32, 16])
    assert class_factors(labels, 0.5).tolist() == [1.0] * 96 + [2.0] * 16
    assert class_factors(labels, 1.0).tolist() == [1.0] * 96 + [4.0] * 16
    assert class_factors(labels, 0.0).tolist() == [1.0] * 112


def test_the_mean_weight_is_one() -> None:
    weights = loss_weights(of_classes(32, 8), 0.5)
    assert weights is not None and weights.mean().item() == pytest.approx(1)
    assert weights.max().item() == pytest.approx(2 * weights.min().item())
    assert loss_weights(of_classes(32, 8), 0.0) is None and loss_weights(of_classes(32, 16), 0.5) is None


def test_weights_of_a_file_and_of_classes_are_multiplied() -> None:
    part = replace(of_classes(32, 8), weights=np.where(np.arange(40) < 1, 3.0, 1.0).astype(np.float32))
    weights = loss_weights(part, 0.5)
    assert weights is not None
    expected = class_factors(part.labels, 0.5) * part.weights
    np.testing.assert_allclose(weights.numpy(), expected / expected.mean(), rtol=1e-6)


def test_each_way_excludes_the_other() -> None:
    assert [
        (r.oversample, r.class_weight) for r in (with_balance(FAST89, way) for way in ("none", "loss", "sampling"))
    ] == [
        (0.0, 0.0),
        (0.0, 0.5),
        (0.5, 0.0),
    ]
    assert with_balance(PRETRAINED, "sampling").oversample == 0.5
    assert with_balance(replace(FAST89, oversample=0.3), "sampling").oversample == 0.3


def test_without_a_wish_or_rare_classes_the_recipe_stays(caplog: pytest.LogCaptureFixture) -> None:
    assert decide_balance(FAST89, None, dataset(32, 8), 0, CPU) is FAST89
    with caplog.at_level("INFO"):
        assert decide_balance(FAST89, "loss", dataset(32, 16), 0, CPU) is FAST89
    assert "no class is rare" in caplog.text


def test_what_is_asked_for_is_done() -> None:
    assert decide_balance(FAST89, "loss", dataset(32, 8), 0, CPU) == with_balance(FAST89, "loss")


def tried(monkeypatch: pytest.MonkeyPatch, right: dict[str, float]) -> list[tuple[Recipe, int]]:
    """Let a share of the second class be right by the way it is balanced; the recipes that are tried."""
    seen: list[tuple[Recipe, int]] = []

    def predict(recipe: Recipe, _d: Dataset, train: Split, val: Split, *_: object) -> tuple[Tensor, Tensor]:
        seen.append((recipe, len(train)))
        way = "loss" if recipe.class_weight else "sampling" if recipe.oversample else "none"
        labels = torch.from_numpy(val.labels.astype(np.int64))
        logits = torch.zeros(len(val), 10)
        logits[:, 0] = 1
        found = (labels == 1).nonzero().flatten()
        logits[found[: round(right[way] * len(found))], 1] = 2
        return logits, labels

    monkeypatch.setattr(balancing, "predict_half", predict)
    return seen


def test_auto_takes_the_best_mean_recall(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The share of all images that are right hardly knows of a rare class."""
    seen = tried(monkeypatch, {"none": 0.0, "loss": 1.0, "sampling": 0.5})
    with caplog.at_level("INFO"):
        chosen = decide_balance(FAST89, "auto", dataset(36, 8), 0, CPU)
    assert chosen == with_balance(FAST89, "loss") and [count for _, count in seen] == [22] * 6
    assert "balance loss: " in caplog.text and "none 50.0%, loss 100.0%, sampling 75.0%" in caplog.text


def test_a_pretrained_network_is_tried_by_its_head(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = tried(monkeypatch, {"none": 1.0, "loss": 0.0, "sampling": 0.0})
    chosen = decide_balance(replace(PRETRAINED, oversample=0.5), "auto", dataset(36, 8), 0, CPU)
    assert {recipe.fine_tune for recipe, _ in seen} == {"off"}
    assert (chosen.fine_tune, chosen.oversample, chosen.class_weight) == ("auto", 0.0, 0.0)


def test_of_many_images_some_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every class its share, but two."""
    seen = tried(monkeypatch, {"none": 1.0, "loss": 0.0, "sampling": 0.0})
    monkeypatch.setattr(balancing, "MOST_TO_TRY", 20)
    decide_balance(FAST89, "auto", dataset(36, 4), 0, CPU)
    assert {count for _, count in seen} == {10}


def test_a_class_of_one_image_cannot_be_tried() -> None:
    assert decide_balance(FAST89, "auto", dataset(32, 1), 0, CPU) is FAST89


def test_mean_recall_counts_classes_alike() -> None:
    right, labels = np.array([True] * 9 + [False]), np.array([0] * 8 + [3] * 2)
    assert mean_recall(right, labels) == pytest.approx((1 + 0.5) / 2)


def test_an_unknown_way_is_one_line(invoke: Invoke) -> None:
    ended = invoke("train", "--data", "shapes", "--balance", "los")
    assert ended.returncode == 2 and "not 'los'; did you mean loss?" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    with pytest.raises(UsageError, match="balance must be none, loss, sampling or auto"):
        check_balance("x")
