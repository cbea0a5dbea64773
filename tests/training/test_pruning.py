"""Which images are kept: the hardest, and of every class some."""

import torch

from tenfold.training.pruning import class_minimum, top_loss_indices

ONE_CLASS = torch.zeros(5, dtype=torch.int64)
NONE_OWED = torch.tensor([0])


def test_the_hardest_are_in_order_and_of_equal_ones_the_first() -> None:
    losses = torch.tensor([0.5, 2.0, 0.5, 3.0, 0.5])
    assert top_loss_indices(losses, ONE_CLASS, 2, NONE_OWED).tolist() == [1, 3]
    assert top_loss_indices(losses, ONE_CLASS, 4, NONE_OWED).tolist() == [0, 1, 2, 3]
    assert top_loss_indices(losses, ONE_CLASS, 5, NONE_OWED).dtype == torch.int64


def test_a_class_keeps_half_of_the_share_rounded_up() -> None:
    """Of 40 %: 20 % of 10, 5 and 1 images; a class without images owes none."""
    labels = torch.tensor([0] * 10 + [1] * 5 + [3])
    assert class_minimum(labels, 0.4).tolist() == [2, 1, 0, 1]


def test_every_class_comes_before_the_hardest_of_the_others() -> None:
    """Class 1 is easier than all of class 0, and its hardest image is number 4."""
    losses, labels = torch.tensor([9.0, 8.0, 7.0, 1.0, 2.0, 0.5]), torch.tensor([0, 0, 0, 1, 1, 1])
    assert top_loss_indices(losses, labels, 3, torch.tensor([1, 1])).tolist() == [0, 1, 4]
    assert top_loss_indices(losses, labels, 3, torch.tensor([0, 2])).tolist() == [0, 3, 4]


def test_where_less_is_kept_than_classes_are_owed_the_hardest_of_these_are() -> None:
    losses, labels = torch.tensor([1.0, 5.0, 3.0, 4.0, 4.5]), torch.tensor([0, 1, 2, 3, 3])
    assert top_loss_indices(losses, labels, 2, torch.tensor([1, 1, 1, 1])).tolist() == [1, 4]


def test_losses_that_are_large_enough_in_every_class_decide_alone() -> None:
    losses = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0, 0.0])
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    expected = losses.argsort(descending=True)[:3].sort().values.tolist()
    assert top_loss_indices(losses, labels, 3, torch.tensor([1, 1, 1])).tolist() == expected == [0, 2, 4]
