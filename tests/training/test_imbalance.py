"""Rare classes: who they are, and how often their images come."""

import numpy as np
import torch

from tenfold.data.dataset import Split
from tenfold.training.imbalance import fit_recipe, has_rare_classes, oversample
from tenfold.training.recipes import FAST89


def labels(*counts: int) -> torch.Tensor:
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def test_a_class_of_less_than_half_the_largest_is_rare() -> None:
    assert has_rare_classes(labels(100, 49).numpy())
    assert not has_rare_classes(labels(100, 50).numpy())
    assert not has_rare_classes(np.array([0, 2], np.uint8))  # a class without images has none to repeat


def test_a_recipe_is_fitted_to_the_images_that_are_trained_on() -> None:
    """Of 149, the data set holds out 20; where no class is rare, so few are not worth pruning."""
    uneven, even = (Split(np.zeros((149, 2, 2, 3), np.uint8), labels(*n).numpy()) for n in ((100, 49), (75, 74)))
    assert fit_recipe(FAST89, uneven, 20) == FAST89.for_images(129, rare_classes=True)
    assert fit_recipe(FAST89, even) == FAST89.for_images(149)
    assert fit_recipe(FAST89, uneven).prune_fraction > fit_recipe(FAST89, even).prune_fraction == 0


def test_square_root_sampling_repeats_rare_classes_only() -> None:
    """100, 60, 25 and 4 images: 25·√(100/25) = 50 and 4·√(100/4) = 20, by hand."""
    order = oversample(labels(100, 60, 25, 4), 0.5)
    assert order[:189].tolist() == list(range(189))
    assert labels(100, 60, 25, 4)[order].bincount().tolist() == [100, 60, 50, 20]
    assert (order == 185).sum() == 5 and (order == 160).sum() == 2  # each image of a class as often


def test_what_does_not_divide_repeats_the_first_images_once_more() -> None:
    """10 images beside 90 come to 30 at 0.5, and 10·9^0.25 = 17.3, 17, at 0.25: seven of them twice."""
    order = oversample(labels(90, 10), 0.25)
    assert order[100:].tolist() == list(range(90, 97))
    assert len(oversample(labels(90, 10), 1.0)) == 180


def test_nothing_changes_at_power_zero_or_among_like_classes() -> None:
    for counts, power in (((100, 4), 0.0), ((100, 50), 0.5), ((7, 7, 0, 7), 1.0)):
        assert oversample(labels(*counts), power).tolist() == list(range(sum(counts)))
