"""Augmentation against SciPy and NumPy, pixel by pixel, and the distributions of what is drawn."""

import math
from dataclasses import replace
from itertools import product
from typing import Literal

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torch import Tensor

from tenfold.training.augment import (
    VIEWS,
    AugmentParams,
    Cutout,
    Epoch,
    Flip,
    Normalization,
    Translate,
    channel_stats,
    derive_seed,
    make_batch,
    make_generator,
    tta_view,
)
from tenfold.training.augment import gather as gather_pixels
from tenfold.training.augment.affine import draw_affine, resample
from tenfold.training.networks import WhitenedSpec
from tenfold.training.recipe import Recipe, Stage
from tenfold.training.recipes import REFERENCE

PLAIN = Recipe("plain", WhitenedSpec(), (Stage(1, 0.1, 0.0),), flip="none", translate=0)


def draw_images(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def gather(images: Tensor, indices: Tensor, flip: Tensor | None, shift: Tensor | None) -> Tensor:
    """Take images, flipped and then shifted."""
    flips = [] if flip is None else [(Flip(), flip)]
    return gather_pixels(images, indices, flips if shift is None else [*flips, (Translate(), shift)])


def draw_flips(kind: Literal["random", "alternating"], count: int, seed: int, epoch: int) -> Tensor:
    return Flip(kind=kind).sample(Epoch(count, 8, seed, epoch, make_generator(seed, "augment", epoch)))


def cut_out(images: Tensor, corner: Tensor, side: int) -> Tensor:
    return Cutout(side=side).apply(images, corner)


def numbered(size: int) -> Tensor:
    """One image whose every pixel has a value of its own."""
    return torch.arange(size * size, dtype=torch.uint8).view(1, size, size, 1).expand(-1, -1, -1, 3)


# --- keys --------------------------------------------------------------------------------------------------------


def test_a_key_gives_its_own_draws_again() -> None:
    assert torch.equal(
        torch.rand(9, generator=make_generator(3, "a", 1)), torch.rand(9, generator=make_generator(3, "a", 1))
    )


def test_every_part_of_a_key_counts() -> None:
    keys = list(product(range(10), ("order", "flip", "augment"), range(40)))
    seeds = {derive_seed(*key) for key in keys}
    assert len(seeds) == len(keys) == 1200
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_an_epoch_is_drawn_again_from_its_number() -> None:
    recipe = replace(REFERENCE, translate=2, cutout=5)
    first, again, other_epoch, other_seed = (
        recipe.pipeline.sample(50, 32, *key) for key in [(1, 2), (1, 2), (1, 3), (2, 2)]
    )
    for name in ("order", "flip", "translate", "affine", "cutout"):
        params, same, *others = (
            params.order if name == "order" else params[name] for params in (first, again, other_epoch, other_seed)
        )
        assert params is not None and same is not None and torch.equal(params, same)
        assert not any(torch.equal(params, other) for other in others if other is not None)
    assert sorted(first.order.tolist()) == list(range(50))


def test_what_a_recipe_does_not_ask_for_is_not_drawn() -> None:
    params = PLAIN.pipeline.sample(50, 32, 0, 0)
    assert (params.built_in, params.others, params["flip"]) == ((), (), None)


# --- the reference system's rotation and shift ----------------------------------------------------------------------


def resample_by_hand(image: np.ndarray, angle: float, shift: np.ndarray) -> np.ndarray:
    """H×W×3, float64: where each output pixel comes from (shifted, then turned about the centre), by SciPy."""
    size = len(image)
    centre = (size - 1) / 2
    row, column = np.mgrid[:size, :size] - centre
    row, column = row + shift[0], column + shift[1]
    source_row = math.cos(angle) * row - math.sin(angle) * column + centre
    source_column = math.sin(angle) * row + math.cos(angle) * column + centre
    places = [source_row, source_column]
    layers = [ndimage.map_coordinates(image[..., c].astype(float), places, order=1, mode="nearest") for c in range(3)]
    return np.stack(layers, -1)


def test_reference_augmentation_is_scipys_bilinear_resampling() -> None:
    """Angles and shifts from the same random numbers, a flip after them; pixels in [0, 1] agree to 1e-5."""
    images, size = draw_images(24, 32), 32
    params = REFERENCE.pipeline.sample(24, size, seed=5, epoch=1)
    indices = torch.arange(24)
    batch = make_batch(torch.from_numpy(images), Normalization(), params, indices).permute(0, 2, 3, 1).numpy()
    uniform = torch.rand(24, 3, generator=make_generator(5, "augment", 1)).double().numpy() * 2 - 1
    flip = params["flip"]
    assert flip is not None and 0 < flip.sum() < 24
    for index, (turn, *shift) in enumerate(uniform):
        expected = resample_by_hand(images[index], math.radians(15 * turn), 3.2 * np.array(shift))
        expected = expected[:, ::-1] if flip[index] else expected
        np.testing.assert_allclose(batch[index], expected / 255, atol=1e-5)


def test_a_quarter_turn_sends_the_top_to_the_right() -> None:
    """theta maps output to input: (r, c) comes from (-c, r), so what was 3 above the centre is 3 right of it."""
    image = torch.zeros(1, 1, 9, 9)
    image[0, 0, 1, 4] = 1
    turned = resample(image, torch.tensor([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]]))
    assert turned[0, 0, 4, 7].item() == pytest.approx(1, abs=1e-5)
    assert turned.sum().item() == pytest.approx(1, abs=1e-5)


def test_a_map_that_shifts_by_a_row_and_a_half_repeats_the_border() -> None:
    column = torch.tensor([1.0, 2.0, 4.0, 8.0]).view(1, 1, 4, 1).expand(1, 1, 4, 4)
    shifted = resample(column, torch.tensor([[[1.0, 0.0, 1.5], [0.0, 1.0, 0.0]]]))
    torch.testing.assert_close(shifted[0, 0, :, 2], torch.tensor([3.0, 6.0, 8.0, 8.0]))


def test_angles_and_shifts_are_uniform_and_bounded() -> None:
    theta = draw_affine(20_000, 15, 3.2, make_generator(0, "test")).double().numpy()
    rotation, offset = theta[:, :, :2], theta[:, :, 2]
    np.testing.assert_allclose(
        rotation @ rotation.transpose(0, 2, 1), np.broadcast_to(np.eye(2), (20_000, 2, 2)), atol=1e-6
    )
    angle = np.degrees(np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0]))
    row, column = np.einsum("nij,ni->jn", rotation, offset)  # undo the turn: the shift came first
    for values, limit in ((angle, 15), (row, 3.2), (column, 3.2)):
        assert np.abs(values).max() <= limit * (1 + 1e-5)
        assert stats.kstest(values, stats.uniform(-limit, 2 * limit).cdf).pvalue > 0.01
    for a, b in ((angle, row), (angle, column), (row, column)):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.03


# --- flips and whole-pixel shifts -------------------------------------------------------------------------------------


def test_random_flips_are_half_of_all_and_new_in_each_epoch() -> None:
    first, second = draw_flips("random", 10_000, 0, 0), draw_flips("random", 10_000, 0, 1)
    assert first is not None and second is not None
    for agree in (first, second, first == second):
        assert stats.binomtest(int(agree.sum()), 10_000, 0.5).pvalue > 0.01


def test_alternating_flips_show_both_sides_in_two_epochs() -> None:
    epochs = [draw_flips("alternating", 10_000, 0, epoch) for epoch in range(4)]
    even, odd, *later = (flips for flips in epochs if flips is not None)
    assert torch.equal(even, ~odd)
    assert torch.equal(later[0], even) and torch.equal(later[1], odd)
    assert stats.binomtest(int(even.sum()), 10_000, 0.5).pvalue > 0.01


def test_a_flip_mirrors_columns() -> None:
    flipped = gather(numbered(3), torch.tensor([0]), torch.tensor([True]), None)
    assert flipped[0, ..., 0].tolist() == [[2, 1, 0], [5, 4, 3], [8, 7, 6]]


def test_shifts_mirror_the_border_as_numpy_does_after_the_flip() -> None:
    images = draw_images(50, 8)
    shift = torch.tensor([*product(range(-3, 4), repeat=2), (0, 0)])
    flip = torch.arange(50) % 2 == 0
    indices = torch.randperm(50, generator=make_generator(0, "test"))
    ours = gather(torch.from_numpy(images), indices, flip[indices], shift[indices]).numpy()
    for index, number in enumerate(indices.tolist()):
        image = images[number][:, ::-1] if flip[number] else images[number]
        padded = np.pad(image, ((3, 3), (3, 3), (0, 0)), mode="reflect")
        down, right = shift[number].tolist()
        np.testing.assert_array_equal(ours[index], padded[3 - down : 11 - down, 3 - right : 11 - right])


def test_shifts_are_uniform_over_whole_pixels() -> None:
    shift = replace(PLAIN, translate=2).pipeline.sample(25_000, 32, 0, 0)["translate"]
    assert shift is not None
    counts = torch.bincount((shift[:, 0] + 2) * 5 + shift[:, 1] + 2, minlength=25)
    assert len(counts) == 25
    assert stats.chisquare(counts.numpy()).pvalue > 0.01


def test_a_batch_is_cut_from_the_chosen_images_and_normalised() -> None:
    images = draw_images(6, 4)
    normalization = Normalization((0.1, 0.2, 0.3), (0.5, 0.25, 2.0))
    flips, shifts = torch.tensor([False, True] * 3), torch.tensor([[1, -1]] * 6)
    params = AugmentParams(torch.arange(6), ((Flip(), flips), (Translate(), shifts)))
    batch = make_batch(torch.from_numpy(images), normalization, params, torch.tensor([5, 0])).numpy()
    for index, image in enumerate([images[5][:, ::-1], images[0]]):
        padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="reflect")[0:4, 2:6]
        expected = (padded / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.25, 2.0]
        np.testing.assert_allclose(batch[index].transpose(1, 2, 0), expected, rtol=1e-5, atol=1e-6)


def test_what_only_chooses_pixels_does_the_same_to_floats() -> None:
    """As a recipe's list of augmentations uses it."""
    images = torch.from_numpy(draw_images(6, 8))
    everything, shift = torch.arange(6), torch.tensor([[1, -2]] * 6)
    expected = Normalization().normalize(gather(images, everything, None, shift))
    assert torch.equal(Translate().apply(Normalization().normalize(images), shift), expected)


# --- cutout --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cutout_corner", "rows", "columns"),
    [
        ((1, 2), {1, 2, 3}, {2, 3, 4}),
        ((-1, 3), {0, 1}, {3, 4}),  # over the upper right corner
        ((-2, -2), {0}, {0}),
        ((4, 4), {4}, {4}),
    ],
)
def test_cutout_by_hand(cutout_corner: tuple[int, int], rows: set[int], columns: set[int]) -> None:
    cut = cut_out(torch.ones(1, 3, 5, 5), torch.tensor([cutout_corner]), side=3)
    for row, column in product(range(5), repeat=2):
        inside = row in rows and column in columns
        assert cut[0, :, row, column].tolist() == [0.0 if inside else 1.0] * 3


def test_holes_are_uniform_over_all_places_that_touch_the_image() -> None:
    cutout_corner = replace(PLAIN, cutout=3).pipeline.sample(20_000, 8, 0, 0)["cutout"]
    assert cutout_corner is not None
    for values in cutout_corner.numpy().T:
        places, counts = np.unique(values, return_counts=True)
        assert places.tolist() == list(range(-2, 8))
        assert stats.chisquare(counts).pvalue > 0.01


def test_cutout_comes_after_flip_and_shift() -> None:
    pairs = ((Flip(), torch.tensor([True])), (Cutout(side=2), torch.tensor([[0, 0]])))
    batch = make_batch(numbered(3) + 1, Normalization(), AugmentParams(torch.arange(1), pairs), torch.tensor([0])) * 255
    assert batch[0, 0].round().tolist() == [[0, 0, 1], [0, 0, 4], [9, 8, 7]]


# --- normalisation ---------------------------------------------------------------------------------------------------


def test_mean_and_deviation_are_numpys() -> None:
    images = draw_images(20, 8)
    images[..., 1] //= 3
    mean, std = channel_stats(torch.from_numpy(images))
    scaled = images.astype(np.float64) / 255
    np.testing.assert_allclose(mean, scaled.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, scaled.std((0, 1, 2)), rtol=1e-9)


def test_flat_images_do_not_divide_by_zero() -> None:
    mean, std = channel_stats(torch.full((2, 4, 4, 3), 51, dtype=torch.uint8))
    assert mean == pytest.approx((0.2, 0.2, 0.2))
    assert std == (1e-3, 1e-3, 1e-3)


def test_pixels_become_channels_first_but_channels_last_in_memory() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3).repeat(2, 4, 4, 1)
    plain, normal = (
        Normalization().normalize(images),
        Normalization((0.5, 0.2, 0.0), (0.5, 1.0, 0.25)).normalize(images),
    )
    assert plain.shape == (2, 3, 4, 4) and plain.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(plain[1, :, 2, 2], torch.tensor([0.0, 0.2, 1.0]))
    torch.testing.assert_close(normal[1, :, 2, 2], torch.tensor([-1.0, 0.0, 4.0]))


# --- views ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VIEWS)
def test_views_are_balanced(name: str) -> None:
    views = VIEWS[name]
    assert sum(weight for weight, _, _ in views) == 1
    assert views[0][1:] == (False, 0)  # the plain image comes first
    for weight, mirrored, shift in views:
        assert (weight, mirrored, -shift) in views
        if name != "one":
            assert (weight, not mirrored, shift) in views


def test_six_views_are_airbenchs() -> None:
    weights = {(mirrored, shift): weight for weight, mirrored, shift in VIEWS["six"]}
    assert weights == {(m, s): 0.125 if s else 0.25 for m in (False, True) for s in (-1, 0, 1)}


def test_views_by_hand() -> None:
    image = numbered(3)
    seen = {(m, s): tta_view(image, m, s)[0, ..., 0].tolist() for m in (False, True) for s in (-1, 0, 1)}
    assert seen[False, 0] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert seen[True, 0] == [[2, 1, 0], [5, 4, 3], [8, 7, 6]]
    assert seen[False, 1] == [[4, 5, 4], [7, 8, 7], [4, 5, 4]]  # up and left, the border mirrored
    assert seen[False, -1] == [[4, 3, 4], [1, 0, 1], [4, 3, 4]]
    assert seen[True, 1] == [[4, 3, 4], [7, 6, 7], [4, 3, 4]]  # mirrored first
    assert seen[True, -1] == [[4, 5, 4], [1, 2, 1], [4, 5, 4]]


def test_a_shift_in_whole_pixels_comes_before_a_rotation() -> None:
    """Without the shift where there is a rotation: it was drawn and not done."""
    images = torch.from_numpy(draw_images(4, 8))
    recipe = replace(REFERENCE, degrees=1e-9, affine_translate=0.0, translate=2, flip="none", cutout=0)
    params = recipe.pipeline.sample(4, 8, seed=3, epoch=0)
    shift = params["translate"]
    assert shift is not None and shift.abs().sum() > 0
    indices = torch.arange(4)
    batch = make_batch(images, Normalization(), params, indices)
    expected = Normalization().normalize(gather(images, indices, None, shift))
    assert torch.allclose(batch, expected, atol=1e-5)
