"""The 15 standard corruptions of images at 5 severities, drawn from a seed.

Definitions and constants are those published for CIFAR-10-C: Hendrycks and Dietterich, "Benchmarking Neural Network
Robustness to Common Corruptions and Perturbations" (2019). Two things differ. Values are rounded to bytes, not cut. And
frost, published as photographs laid over the image, is drawn by code here: needles of ice on a rough film. Lengths are
published for 32 pixels a side; for S > 32 pixels they are scaled by S / 32.

Shapes: N images of S×S pixels and 3 channels, within this file float32 N×S×S×3 in [0, 1]; `rng` draws for all of them.
"""

import io
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage

from tenfold.data.dataset import to_bytes
from tenfold.data.stored import Images

SEVERITIES = (1, 2, 3, 4, 5)
BLOCK = 500
"""Images that are drawn together; each block has random numbers of its own."""
LARGE_SIDE = 64
"""Pixels a side: of larger images fewer are drawn together, for their memory."""
_NEEDLES = 3
_ICE = np.array([0.84, 0.92, 1.0], np.float32)
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def corrupt(images: Images, name: str, severity: int, seed: int = 0) -> np.ndarray:
    """Corrupt uint8 N×S×S×3 as `name` (one of `CORRUPTIONS`) at `severity` 1 to 5 says; uint8 of the same shape.

    Whole blocks of 500, of large images of fewer, come out the same however many images follow.
    """
    number, corrupted = list(CORRUPTIONS).index(name), np.empty(images.shape, np.uint8)
    step = max(1, min(BLOCK, BLOCK * LARGE_SIDE**2 // images.shape[1] ** 2))
    for begin in range(0, len(images), step):
        rng = np.random.default_rng([seed, number, severity, begin])
        block = images[begin : begin + step].astype(np.float32) / 255
        corrupted[begin : begin + step] = to_bytes(CORRUPTIONS[name](block, severity - 1, rng))
    return corrupted


def _scale(images: np.ndarray) -> float:
    """How many times longer than on 32 pixels a length is here; no shorter on smaller ones, where it would be lost."""
    return max(1.0, images.shape[1] / 32)


# --- noise -------------------------------------------------------------------------------------------------------


def _gaussian_noise(images: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    return images + (0.04, 0.06, 0.08, 0.09, 0.10)[level] * rng.standard_normal(images.shape, np.float32)


def _shot_noise(images: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    photons = (500, 250, 100, 75, 50)[level]
    return rng.poisson(images * photons).astype(np.float32) / photons


def _impulse_noise(images: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    amount = (0.01, 0.02, 0.03, 0.05, 0.07)[level]
    drawn = rng.random(images.shape, np.float32)
    return np.where(drawn < amount / 2, 0, np.where(drawn < amount, 1, images))


# --- blur --------------------------------------------------------------------------------------------------------


def disk_kernel(radius: float, smoothing: float) -> np.ndarray:
    """A disk of this radius in pixels, smoothed by a 3×3 Gaussian; float32, square, its sum 1."""
    reach = math.floor(radius) + 1
    offsets = np.arange(-reach, reach + 1)
    disk = (offsets[:, None] ** 2 + offsets[None, :] ** 2 <= radius**2).astype(np.float32)
    bell = np.exp(-(np.arange(-1, 2) ** 2) / (2 * smoothing**2))
    kernel = ndimage.convolve(disk, np.outer(bell, bell), mode="constant")
    return (kernel / kernel.sum()).astype(np.float32)


def _defocus_blur(images: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    radius, smoothing = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))[level]
    kernel = disk_kernel(radius * _scale(images), smoothing)
    weights = torch.from_numpy(kernel).expand(3, 1, *kernel.shape)
    channels = F.pad(torch.from_numpy(images).permute(0, 3, 1, 2), (len(kernel) // 2,) * 4, mode="reflect")
    return F.conv2d(channels, weights, groups=3).permute(0, 2, 3, 1).numpy()


def _glass_blur(images: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    sigma, times = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))[level]
    spread = (0, sigma * _scale(images), sigma * _scale(images), 0)
    shuffled = ndimage.gaussian_filter(images, spread, mode="nearest")
    for _ in range(times):
        shuffled = _shuffle(shuffled, rng)
    return ndimage.gaussian_filter(shuffled, spread, mode="nearest")


def _shuffle(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Give each pixel, off two rows and columns, its own colour or that of one above it, left of it, or both.

    That is what the published code does: its swap of two pixels leaves the second as it was.
    """
    count, size = images.shape[:2]
    moves = rng.integers(-1, 1, (2, count, size, size))
    moves[:, :, :2] = moves[:, :, :, :2] = 0
    rows, columns = np.indices((size, size))[:, None] + moves
    return images[np.arange(count)[:, None, None], rows, columns]


def _motion_blur(images: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    radius, sigma = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[level]
    angles = rng.uniform(-math.pi / 4, math.pi / 4, len(images))
    return _streak(images, radius * _scale(images), sigma * _scale(images), angles)


def _streak(images: np.ndarray, radius: float, sigma: float, angles: np.ndarray) -> np.ndarray:
    """Average each image N×S×S×C along its own line, by half a Gaussian, as ImageMagick does; edges are repeated."""
    steps = np.arange(2 * math.ceil(radius) + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    place = np.arange(images.shape[1])
    every, last = np.arange(len(images))[:, None, None], images.shape[1] - 1
    blurred = np.zeros_like(images)
    for step, weight in zip(steps, weights, strict=True):
        if weight > 1e-4:
            down, right = (np.ceil(step * turn(angles) - 0.5).astype(int)[:, None] for turn in (np.sin, np.cos))
            rows, columns = (np.clip(place + shift, 0, last) for shift in (down, right))
            blurred += np.float32(weight) * images[every, rows[:, :, None], columns[:, None, :]]
    return blurred


def _zoom_blur(images: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    factors = 1 + np.arange((6, 11, 16, 21, 26)[level]) / 100
    total = images + sum(_zoom(images, factor) for factor in factors)
    return total / (len(factors) + 1)


def _zoom(images: np.ndarray, factor: float) -> np.ndarray:
    """Enlarge about the centre."""
    middle = (images.shape[1] - 1) / 2
    place = np.broadcast_to(middle + (np.arange(images.shape[1]) - middle) / factor, images.shape[:3])
    return _sample(images, place.swapaxes(1, 2), place)


def _sample(images: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Read N×S×S×C at N×S×S places in pixels: bilinear, mirrored at the outermost pixels."""
    places = np.stack((columns, rows), axis=-1) * (2 / (images.shape[1] - 1)) - 1
    channels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    grid = torch.from_numpy(places.astype(np.float32))
    read = F.grid_sample(channels, grid, mode="bilinear", padding_mode="reflection", align_corners=True)
    return read.permute(0, 2, 3, 1).numpy()


# --- weather -----------------------------------------------------------------------------------------------------


def _snow(images: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    mean, spread, zoom, least, radius, sigma, keep = (
        (0.1, 0.2, 1.0, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1.0, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[level]
    flakes = _zoom(mean + spread * rng.standard_normal((*images.shape[:3], 1), np.float32), zoom)
    flakes = np.clip(np.where(flakes < least, 0, flakes), 0, 1)
    angles = rng.uniform(-0.75 * math.pi, -0.25 * math.pi, len(images))
    flakes = _streak(flakes, radius * _scale(images), sigma * _scale(images), angles)
    grey = (images @ _LUMA)[..., None]
    whiter = keep * images + (1 - keep) * np.maximum(images, 1.5 * grey + 0.5)
    return whiter + flakes + flakes[:, ::-1, ::-1]


def _frost(images: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    keep, ice = ((1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[level]
    return keep * images + ice * _draw_ice(rng, len(images), images.shape[1])


def _draw_ice(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Needles in directions 60° apart, as ice grows, on a film of uneven thickness; N×S×S×3."""
    angles = rng.uniform(0, math.pi, count)
    needles = np.zeros((count, size, size, 1), np.float32)
    for turn in range(_NEEDLES):
        seeds = (rng.random(needles.shape, np.float32) < 0.04).astype(np.float32)
        needles += _streak(seeds, 0.4 * size, 0.2 * size, angles + turn * math.pi / _NEEDLES)
    film = draw_plasma(rng, count, size, 1.6)[..., None]
    return np.clip(0.15 + 0.75 * film**2 + 2.5 * needles * film, 0, 1) * _ICE


def _fog(images: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    amount, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1.0, 2), (1.5, 1.75))[level]
    brightest = images.max(axis=(1, 2, 3), keepdims=True)
    foggy = images + amount * draw_plasma(rng, len(images), images.shape[1], decay)[..., None]
    return foggy * brightest / (brightest + amount)


def draw_plasma(rng: np.random.Generator, count: int, size: int, decay: float) -> np.ndarray:
    """Clouds that repeat, by the diamond-square algorithm (Fournier, Fussell and Carpenter, 1982), N×S×S in [0, 1].

    What is added at random becomes `decay`² times smaller with every halving of the distance between points.
    """
    side = 1 << math.ceil(math.log2(size))
    clouds, step, height = np.zeros((count, side, side)), side, 1.0

    def put(first: int, second: int, neighbours: list[np.ndarray]) -> None:
        mean = np.mean(neighbours, axis=0)
        clouds[:, first::step, second::step] = mean + height * rng.uniform(-1, 1, mean.shape)

    while step >= 2:
        half, corners = step // 2, clouds[:, ::step, ::step]
        below = np.roll(corners, -1, axis=1)
        put(half, half, [corners, below, np.roll(corners, -1, axis=2), np.roll(below, -1, axis=2)])
        middles = clouds[:, half::step, half::step]
        put(0, half, [corners, np.roll(corners, -1, axis=2), middles, np.roll(middles, 1, axis=1)])
        put(half, 0, [corners, below, middles, np.roll(middles, 1, axis=2)])
        step, height = half, height / decay**2
    clouds -= clouds.min(axis=(1, 2), keepdims=True)
    return (clouds / clouds.max(axis=(1, 2), keepdims=True))[:, :size, :size].astype(np.float32)


# --- light, shape, storage ---------------------------------------------------------------------------------------


def _brightness(images: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """Add to the value of hue, saturation and value: what is not black keeps the ratios of its channels."""
    more = (0.05, 0.1, 0.15, 0.2, 0.3)[level]
    value = images.max(axis=-1, keepdims=True)
    brighter = np.minimum(value + more, 1)
    return np.where(value > 0, images * brighter / np.maximum(value, 1e-6), brighter)


def _contrast(images: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    means = images.mean(axis=(1, 2), keepdims=True)
    return (images - means) * (0.75, 0.5, 0.4, 0.3, 0.15)[level] + means


def _elastic(images: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """Move three points and the plane with them, then every pixel a little; lengths as shares of the side."""
    far, smooth, corners = (
        (0.0, 0.0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    )[level]
    size = images.shape[1]
    grid = np.broadcast_to(np.indices((size, size), np.float32)[:, None], (2, *images.shape[:3]))
    moved = _sample(images, *_move_points(len(images), size, corners * size, rng))
    noise = rng.uniform(-1, 1, grid.shape)
    drift = far * size * ndimage.gaussian_filter(noise, (0, 0, smooth * size, smooth * size), truncate=3)
    return _sample(moved, *(grid + drift))


def _move_points(count: int, size: int, reach: float, rng: np.random.Generator) -> np.ndarray:
    """Where each pixel of the moved plane comes from: rows and columns, 2×N×S×S."""
    middle, arm = size // 2, size // 3
    points = np.array([[arm, arm], [arm, -arm], [-arm, -arm]]) + middle
    moved = points + rng.uniform(-reach, reach, (count, 3, 2))
    back = np.linalg.solve(np.concatenate((moved, np.ones((count, 3, 1))), axis=2), points)  # N×3×2
    row, column = np.indices((size, size))
    return np.einsum("cij,nck->knij", np.stack((row, column, np.ones_like(row))), back)


def _pixelate(images: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    size = images.shape[1]
    small = max(1, int(size * (0.95, 0.9, 0.85, 0.75, 0.65)[level]))

    def change(image: Image.Image) -> Image.Image:
        return image.resize((small, small), Image.Resampling.BOX).resize((size, size), Image.Resampling.BOX)

    return _each(images, change)


def _jpeg(images: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    quality = (80, 65, 58, 50, 40)[level]

    def change(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer)

    return _each(images, change)


def _each(images: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    changed = [np.asarray(change(Image.fromarray(image))) for image in to_bytes(images)]
    return np.stack(changed).astype(np.float32) / 255


CORRUPTIONS: dict[str, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]] = {
    "gaussian noise": _gaussian_noise,
    "shot noise": _shot_noise,
    "impulse noise": _impulse_noise,
    "defocus blur": _defocus_blur,
    "glass blur": _glass_blur,
    "motion blur": _motion_blur,
    "zoom blur": _zoom_blur,
    "snow": _snow,
    "frost": _frost,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic": _elastic,
    "pixelate": _pixelate,
    "jpeg": _jpeg,
}
"""By name, in the published order: noise, blur, weather, and the digital ones."""
