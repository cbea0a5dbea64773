"""Which images come next: every image in the first cycle, the hardest in the later ones."""

from dataclasses import replace

import pytest
import torch

from tenfold.training.recipes import FAST89
from tenfold.training.sampler import Sampler

COUNT, BATCH = 100, 10


def make(
    fraction: float, proxy_widths: tuple[int, ...] = (), count: int = COUNT, labels: torch.Tensor | None = None
) -> Sampler:
    """A sampler of `count` images, of one class unless `labels` say otherwise."""
    by_loss, by_proxy = (0.0, fraction) if proxy_widths else (fraction, 0.0)
    recipe = replace(FAST89, prune_fraction=by_loss, proxy_widths=proxy_widths, proxy_prune_fraction=by_proxy)
    labels = torch.zeros(count, dtype=torch.int64) if labels is None else labels
    return Sampler(recipe, labels, 32, 0, BATCH, torch.device("cpu"))


def next_indices(sampler: Sampler, steps: range) -> list[int]:
    """The images of these steps, in order; an image's loss is its number, so that high numbers are hard."""
    dealt = []
    for step in steps:
        _, indices = sampler.next_indices(step)
        sampler.update_losses(indices, indices.float())
        dealt.extend(indices.tolist())
    return dealt


def test_without_easy_images_to_leave_out_every_pass_sees_all() -> None:
    dealt = next_indices(make(0.0), range(20))
    for pass_ in (dealt[:100], dealt[100:]):
        assert sorted(pass_) == list(range(COUNT))
    assert dealt[:100] != dealt[100:]


def test_later_passes_leave_the_easiest_out() -> None:
    dealt = next_indices(make(0.3), range(24))
    assert sorted(dealt[:100]) == list(range(COUNT))
    for pass_ in (dealt[100:170], dealt[170:240]):
        assert sorted(pass_) == list(range(30, COUNT))


def test_an_image_left_out_comes_back_when_others_become_easier() -> None:
    sampler = make(0.3)
    next_indices(sampler, range(10))
    for step in range(10, 17):  # the seventy hard ones are learned
        _, indices = sampler.next_indices(step)
        sampler.update_losses(indices, torch.zeros(BATCH))
    dealt = next_indices(sampler, range(17, 24))
    assert set(range(1, 30)) <= set(dealt), "all whose loss is not zero"


def test_images_that_no_batch_had_room_for_count_as_hard() -> None:
    sampler = make(0.5, count=109)
    first = set(next_indices(sampler, range(10)))
    sampler.next_indices(10)
    assert set(range(109)) - first <= set(sampler.keep_mask.nonzero().flatten().tolist())


@pytest.mark.parametrize("step", [3, 10, 13, 17, 20])
def test_a_restored_sampler_deals_the_same(step: int) -> None:
    """Restored in the middle of a cycle, whose choice rests on losses that have changed since.

    Without `kept` in the state: steps 13 and 20 deal other images.
    """
    straight, restored = make(0.3), make(0.3)
    next_indices(straight, range(step))
    saved = {name: tensor.clone() for name, tensor in straight.state().items()}
    expected = next_indices(straight, range(step, 30))
    restored.restore(saved)
    assert next_indices(restored, range(step, 30)) == expected


def test_a_recipe_that_leaves_nothing_out_needs_no_state() -> None:
    assert make(0.0).state() == {}
    assert set(make(0.1).state()) == {"losses", "keep_mask"}


@pytest.mark.parametrize(
    ("step", "place"), [(0, (0, 0)), (9, (0, 9)), (10, (1, 0)), (16, (1, 6)), (17, (2, 0)), (23, (2, 6))]
)
def test_a_step_has_its_place_in_a_cycle(step: int, place: tuple[int, int]) -> None:
    assert make(0.3).locate(step) == place


def test_a_proxy_gets_more_images_a_step_and_every_pass_deals_all() -> None:
    """Batches of 10 / (1 - 0.6) = 25 out of a hundred; whatever the losses are, none is left out."""
    sampler = make(0.6, proxy_widths=(8,))
    dealt = next_indices(sampler, range(8))
    assert [len(sampler.next_indices(step)[1]) for step in (7, 8)] == [25, 25]
    assert [sampler.locate(step) for step in (0, 3, 4, 9)] == [(0, 0), (0, 3), (1, 0), (2, 1)]
    for pass_ in (dealt[:100], dealt[100:]):
        assert sorted(pass_) == list(range(COUNT))
    assert dealt[:100] != dealt[100:]
    assert sampler.state() == {}


def test_a_proxy_never_gets_more_images_than_there_are() -> None:
    sampler = make(0.6, proxy_widths=(8,), count=20)
    assert sorted(sampler.next_indices(3)[1].tolist()) == list(range(20)) and sampler.locate(3) == (3, 0)


# --- classes ---------------------------------------------------------------------------------------------------------


def test_every_class_keeps_its_hardest_images_however_easy_they_are() -> None:
    """Of 100 images 40 are kept, of every class at least 0.5 × 0.4 of its own: 14 of 70, 5 of 25, 1 of 5.

    Before, the two rare classes, easier here than any other image, were never drawn again.
    """
    labels = torch.tensor([0] * 5 + [1] * 25 + [2] * 70)
    sampler = make(0.6, labels=labels)
    next_indices(sampler, range(10))  # the loss of an image is its number
    kept = set(next_indices(sampler, range(10, 14)))
    assert kept == {4} | set(range(25, 30)) | set(range(66, COUNT)), "the hardest of each class, and of all"


def test_classes_that_keep_enough_anyway_change_nothing() -> None:
    """As on CIFAR-10: 20 of 100 images are kept, of each class 10 by their losses, where 5 are its least."""
    labels = torch.arange(COUNT) % 2
    sampler = make(0.8, labels=labels)
    next_indices(sampler, range(10))
    assert set(next_indices(sampler, range(10, 12))) == set(range(80, COUNT))


def test_no_image_of_a_rare_class_is_left_out_for_good() -> None:
    """Two of ten come in every cycle; whoever was seen is easier than who waits, so that all ten take turns."""
    labels = torch.tensor([0] * 10 + [1] * 90)
    sampler = make(0.6, labels=labels)
    seen: set[int] = set()
    for step in range(10 + 5 * 4):
        _, indices = sampler.next_indices(step)
        first = indices[labels[indices] == 0]
        seen |= set(first.tolist()) if step >= 10 else set()
        losses = torch.full((BATCH,), 100.0)  # the large class is never learned
        losses[labels[indices] == 0] = 1 / (step + 1)  # the small one is, and better each time
        sampler.update_losses(indices, losses)
    assert seen == set(range(10))


def test_each_of_many_tiny_classes_keeps_an_image() -> None:
    """Of 60 classes one image each stays, more than the 40 of 100 that the recipe asks for: a cycle is longer then."""
    labels = torch.cat((torch.arange(60), torch.zeros(40, dtype=torch.int64)))
    sampler = make(0.6, labels=labels)
    next_indices(sampler, range(10))
    assert sampler.kept_count == 59 + 9, "41 images of class 0 keep 0.2 of them, rounded up"
    dealt, kept = next_indices(sampler, range(10, 16)), set(range(1, 60)) | set(range(91, COUNT))
    assert set(sampler.keep_mask.nonzero().flatten().tolist()) == kept, "and of class 0 the nine hardest"
    assert len(set(dealt)) == 60 and set(dealt) <= kept, "six whole batches of them, no image twice"
