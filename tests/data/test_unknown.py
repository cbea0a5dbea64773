"""Images of no class, made by code."""

import numpy as np
import pytest

from tenfold.data.unknown import make_unknown


@pytest.fixture(scope="module")
def unknown() -> dict[str, np.ndarray]:
    return make_unknown(32, ("cat", "dog"), count=20)


def test_every_kind_has_as_many_images_as_asked_for(unknown: dict[str, np.ndarray]) -> None:
    assert list(unknown) == ["shapes", "digits", "noise", "flat colours"]
    assert all(images.shape == (20, 32, 32, 3) and images.dtype == np.uint8 for images in unknown.values())


def test_the_same_arguments_give_the_same_images(unknown: dict[str, np.ndarray]) -> None:
    again = make_unknown(32, ("cat", "dog"), count=20)
    assert all((again[kind] == images).all() for kind, images in unknown.items())


def test_a_kind_that_the_model_knows_is_left_out(unknown: dict[str, np.ndarray]) -> None:
    """The others keep their bytes."""
    digits = make_unknown(32, (*"9876543210", "none"), count=20)
    assert list(digits) == ["shapes", "noise", "flat colours"]
    assert (digits["noise"] == unknown["noise"]).all()
    shapes = ("disk", "ring", "square", "frame", "bar", "cross", "triangle", "star", "crescent", "heart")
    assert list(make_unknown(32, shapes, count=2)) == ["digits", "noise", "flat colours"]


def test_a_digit_stands_out_from_its_paper(unknown: dict[str, np.ndarray]) -> None:
    """Of most images, a good part of the pixels is ink, far from the colour of the paper in the corner."""
    digits = unknown["digits"].astype(int)
    far = (np.abs(digits - digits[:, :1, :1]).max(3) > 30).mean((1, 2))
    assert 0.03 < np.median(far) < 0.5 and (far > 0).all()


def test_noise_is_of_two_kinds_and_flat_colours_are_flat(unknown: dict[str, np.ndarray]) -> None:
    assert (np.ptp(unknown["noise"][:10].reshape(10, -1), axis=1) > 240).all()
    assert np.ptp(unknown["flat colours"], axis=(1, 2)).max() == 0
    assert len(np.unique(unknown["flat colours"][:, 0, 0], axis=0)) > 15


@pytest.mark.parametrize("size", [8, 100])
def test_other_sizes(size: int) -> None:
    assert all(images.shape == (3, size, size, 3) for images in make_unknown(size, (), count=3).values())
