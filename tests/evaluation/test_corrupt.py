"""The 15 corruptions against statistics that are known from their definitions."""

import io
import itertools
import math

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tenfold.data.shapes import make_shapes
from tenfold.evaluation.corrupt import BLOCK, CORRUPTIONS, SEVERITIES, corrupt, disk_kernel, draw_plasma

GREY = np.full((200, 32, 32, 3), 128, np.uint8)
SHAPES = make_shapes(train=1, test=40).test.images
RANDOM = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
CELLS = [(name, severity) for name in CORRUPTIONS for severity in SEVERITIES]


def shares(images: np.ndarray) -> np.ndarray:
    return images.astype(float) / 255


def test_there_are_the_15_standard_ones() -> None:
    assert len(CORRUPTIONS) == 15 and len(CELLS) == 75


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("size", [8, 32, 45, 64])
def test_any_size_keeps_shape_and_is_drawn_from_the_seed(name: str, size: int) -> None:
    images = make_shapes(train=1, test=3, size=size).test.images
    for severity in (1, 5):
        out = corrupt(images, name, severity, seed=7)
        assert out.dtype == np.uint8 and out.shape == images.shape
        assert not np.array_equal(out, images)
        assert np.array_equal(out, corrupt(images, name, severity, seed=7))


def test_large_images_are_drawn_fewer_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five hundred of 224 pixels at a time took 4.2 GB."""
    seen: list[int] = []

    def watched(images: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
        seen.append(len(images))
        return images

    monkeypatch.setitem(CORRUPTIONS, "contrast", watched)
    for size, count in ((64, 501), (224, 45), (3000, 2)):
        images = np.zeros((count, size, size, 3), np.uint8)
        assert np.array_equal(corrupt(images, "contrast", 1), images)
    assert seen == [500, 1, 40, 5, 1, 1]


def test_the_first_images_are_the_same_however_many_follow() -> None:
    many = np.repeat(GREY, 4, axis=0)[: BLOCK + 20]
    out = corrupt(many, "gaussian noise", 2)
    assert np.array_equal(out[:BLOCK], corrupt(many[:BLOCK], "gaussian noise", 2))
    assert not np.array_equal(out[:20], out[BLOCK:])  # the next block has numbers of its own
    assert not np.array_equal(out, corrupt(many, "gaussian noise", 2, seed=1))
    assert len(corrupt(many[:0], "snow", 1)) == 0


@pytest.mark.parametrize(("severity", "sigma"), list(enumerate((0.04, 0.06, 0.08, 0.09, 0.10), start=1)))
def test_gaussian_noise_has_its_sigma(severity: int, sigma: float) -> None:
    noise = shares(corrupt(GREY, "gaussian noise", severity)) - 128 / 255
    assert noise.std() == pytest.approx(sigma, rel=0.01) and abs(noise.mean()) < 5e-4


@pytest.mark.parametrize(("severity", "photons"), list(enumerate((500, 250, 100, 75, 50), start=1)))
def test_shot_noise_varies_as_light_does(severity: int, photons: int) -> None:
    """A Poisson count's variance is its mean: of a share p of c photons, p / c. Bytes add a twelfth of a step or so."""
    noisy = shares(corrupt(GREY, "shot noise", severity))
    assert noisy.mean() == pytest.approx(128 / 255, rel=2e-3)
    assert noisy.var() == pytest.approx(128 / 255 / photons + 1 / 12 / 255**2, rel=0.04)


@pytest.mark.parametrize(("severity", "amount"), list(enumerate((0.01, 0.02, 0.03, 0.05, 0.07), start=1)))
def test_impulses_are_as_many_black_as_white(severity: int, amount: float) -> None:
    noisy = corrupt(GREY, "impulse noise", severity)
    assert (noisy == 0).mean() == pytest.approx(amount / 2, rel=0.05)
    assert (noisy == 255).mean() == pytest.approx(amount / 2, rel=0.05)
    assert (noisy == 128).mean() == pytest.approx(1 - amount, rel=0.01)


def test_kernels_of_defocus_by_hand() -> None:
    """Radius 0.5 is one pixel, smoothed: a 3×3 Gaussian of σ 0.6. Radius 1.5 is nine, hardly smoothed."""
    edge, corner = math.exp(-1 / 0.72), math.exp(-2 / 0.72)
    wanted = np.array([[corner, edge, corner], [edge, 1, edge], [corner, edge, corner]])
    assert disk_kernel(0.5, 0.6)[:3, :3] == pytest.approx(wanted / wanted.sum(), rel=1e-5)
    wide = disk_kernel(1.5, 0.1)
    assert wide.sum() == pytest.approx(1) and wide[1:4, 1:4] == pytest.approx(1 / 9, abs=1e-6)


def test_defocus_is_the_mean_of_nine() -> None:
    """At severity 5; Pillow's box blur is another implementation of it, off the edges."""
    out = corrupt(RANDOM, "defocus blur", 5)
    other = np.stack([np.asarray(Image.fromarray(image).filter(ImageFilter.BoxBlur(1))) for image in RANDOM])
    assert np.abs(out.astype(int) - other)[:, 2:-2, 2:-2].max() <= 1


@pytest.mark.parametrize("name", ["defocus blur", "glass blur", "motion blur", "zoom blur"])
def test_blurs_keep_flat_images_and_lose_detail(name: str) -> None:
    assert np.array_equal(corrupt(GREY[:5], name, 5), GREY[:5])
    spreads = [corrupt(RANDOM, name, severity).std() for severity in SEVERITIES]
    assert spreads[-1] < RANDOM.std() * 0.9 and spreads[0] < RANDOM.std() * 1.01


def test_glass_gives_pixels_the_colour_of_a_neighbour() -> None:
    """At severity 1 its blur, σ 0.05, changes nothing: each pixel is one of four, as often as the others."""
    out = corrupt(RANDOM, "glass blur", 1)
    inner = out[:, 2:, 2:]
    sources = [RANDOM[:, 2 - down : 32 - down, 2 - right : 32 - right] for down in (0, 1) for right in (0, 1)]
    same = np.array([(inner == source).all(axis=-1) for source in sources])
    assert same.any(axis=0).all() and same.mean(axis=(1, 2, 3)) == pytest.approx(0.25, abs=0.02)
    assert np.array_equal(out[:, :2], RANDOM[:, :2]) and np.array_equal(out[:, :, :2], RANDOM[:, :, :2])


def test_motion_smears_a_point_along_half_a_gaussian() -> None:
    points = np.zeros((50, 32, 32, 3), np.uint8)
    points[:, 16, 16] = 255
    smeared = shares(corrupt(points, "motion blur", 3))[..., 0]
    weights = np.exp(-(np.arange(13) ** 2) / 8)
    assert smeared[:, 16, 16] == pytest.approx(weights[0] / weights.sum(), abs=0.003)
    assert smeared.sum(axis=(1, 2)) == pytest.approx(1, abs=0.02)
    rows, columns = np.nonzero(smeared.sum(axis=0))
    assert columns.max() == 16 and columns.min() < 12  # within 45° of the horizontal
    assert (np.abs(rows - 16) <= np.abs(columns - 16)).all()


def test_zoom_blur_leaves_the_centre_and_drags_the_border() -> None:
    ramp = np.broadcast_to(np.linspace(0, 248, 32).astype(np.uint8)[:, None], (1, 32, 32, 3)[:3])
    image = np.repeat(ramp[..., None], 3, axis=-1)
    out = corrupt(image, "zoom blur", 5).astype(float)[0, :, 16, 0]
    # by hand: the mean of 1 / factor over the 26 factors and the image itself, times the distance from the centre
    share = (1 + sum(1 / (1 + i / 100) for i in range(26))) / 27
    assert out == pytest.approx(124 + share * (np.linspace(0, 248, 32) - 124), abs=1.5)


@pytest.mark.parametrize(("severity", "amount"), list(enumerate((0.2, 0.5, 0.75, 1.0, 1.5), start=1)))
def test_fog_is_a_cloud_between_nothing_and_its_amount(severity: int, amount: float) -> None:
    """Of a flat image of brightness m: (m + amount · cloud) · m / (m + amount), the cloud from 0 to 1."""
    m = 128 / 255
    foggy = shares(corrupt(GREY, "fog", severity))
    assert foggy.min(axis=(1, 2, 3)) == pytest.approx(m * m / (m + amount), abs=0.003)
    assert foggy.max(axis=(1, 2, 3)) == pytest.approx(m, abs=0.003)


def test_clouds_become_rougher_the_slower_their_heights_fall() -> None:
    def roughness(decay: float) -> float:
        clouds = draw_plasma(np.random.default_rng(0), 100, 32, decay)
        assert clouds.min() == 0 and clouds.max() == 1
        return float(np.abs(np.diff(clouds, axis=1)).mean())

    assert roughness(3.0) < roughness(2.0) < roughness(1.6)


def test_snow_and_frost_whiten() -> None:
    for name in ("snow", "frost"):
        assert corrupt(GREY, name, 3).mean() > GREY.mean() + 8
    frost = shares(corrupt(np.zeros_like(GREY), "frost", 5))
    assert frost.max() <= 0.45 + 1 / 255 and frost[..., 2].mean() > frost[..., 0].mean() > 0.05  # a bluish white


@pytest.mark.parametrize(("severity", "more"), list(enumerate((0.05, 0.1, 0.15, 0.2, 0.3), start=1)))
def test_brightness_is_value_in_hsv(severity: int, more: float) -> None:
    """The standard library's HSV, pixel by pixel, is the other implementation."""
    import colorsys

    pixels = np.concatenate((RANDOM[0, 0], [[0, 0, 0], [255, 255, 255]])).astype(np.uint8)
    out = corrupt(np.tile(pixels[None, None, :], (1, 34, 1, 1)), "brightness", severity)[0, 0]
    for before, after in zip(pixels, out, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(before / 255))
        wanted = np.array(colorsys.hsv_to_rgb(hue, saturation, min(value + more, 1))) * 255
        assert after == pytest.approx(wanted, abs=0.51)


@pytest.mark.parametrize(("severity", "factor"), list(enumerate((0.75, 0.5, 0.4, 0.3, 0.15), start=1)))
def test_contrast_scales_about_the_mean(severity: int, factor: float) -> None:
    before, after = shares(RANDOM), shares(corrupt(RANDOM, "contrast", severity))
    assert after.mean(axis=(1, 2)) == pytest.approx(before.mean(axis=(1, 2)), abs=2e-3)
    assert after.std(axis=(1, 2)) == pytest.approx(factor * before.std(axis=(1, 2)), abs=2e-3)


def test_elastic_moves_a_ramp_no_farther_than_its_reach() -> None:
    """Values of a ramp are places: severity 2 moves three points by up to 0.07 of the side, and smooths the rest away.

    A point within the triangle goes no farther than its corners; the corner of the image that is farthest from it goes
    up to five times as far.
    """
    ramp = np.broadcast_to(np.arange(0, 256, 8, np.uint8)[:, None, None], (50, 32, 32, 3)).copy()
    moved = corrupt(ramp, "elastic", 2).astype(float) / 8
    drift = np.abs(moved - np.arange(32)[:, None, None])
    assert drift[:, 4:-4, 4:-4].mean() > 0.3 and drift.max() < 5 * 0.07 * 32 + 1
    assert np.array_equal(corrupt(GREY[:5], "elastic", 5), GREY[:5])


@pytest.mark.parametrize(("severity", "side"), list(enumerate((30, 28, 27, 24, 20), start=1)))
def test_pixelate_leaves_so_many_boxes(severity: int, side: int) -> None:
    """A column of 32 different rows has at most as many values left as there are boxes."""
    ramp = np.broadcast_to(np.arange(0, 256, 8, np.uint8)[:, None, None], (1, 32, 32, 3)).copy()
    out = corrupt(ramp, "pixelate", severity)[0, :, 0, 0]
    small = Image.fromarray(ramp[0]).resize((side, side), Image.Resampling.BOX)
    assert np.array_equal(out, np.asarray(small.resize((32, 32), Image.Resampling.BOX))[:, 0, 0])


@pytest.mark.parametrize(("severity", "quality"), list(enumerate((80, 65, 58, 50, 40), start=1)))
def test_jpeg_is_pillows_of_that_quality(severity: int, quality: int) -> None:
    out = corrupt(RANDOM[:3], "jpeg", severity)
    for image, after in zip(RANDOM, out, strict=False):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        assert np.array_equal(after, np.asarray(Image.open(file)))


# as published, elastic trades a larger shear for finer ripples; glass swaps once, and blurs more, from 1 to 3; the
# drawn ice dims the image where it is thin, from 3 on; snow at 3 falls in larger flakes than at 2, and as much of it
NOT_MONOTONE = {"elastic", "glass blur", "frost", "snow"}


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name not in NOT_MONOTONE])
def test_each_severity_distorts_more(name: str) -> None:
    images = SHAPES.astype(float)
    errors = [np.square(corrupt(SHAPES, name, severity) - images).mean() for severity in SEVERITIES]
    assert all(low < high * 1.02 for low, high in itertools.pairwise(errors)), errors
    assert errors[-1] > 1.25 * errors[0]
