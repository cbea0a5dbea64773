"""Drawn shapes: ten classes on noisy coloured backgrounds, made from a seed, for tests and machines without network.

Each class is a signed distance function (Quílez, "2D distance functions"), drawn at a random place, size, angle and
pair of colours. The classes keep their names when an image is flipped, shifted a little or turned.

Legend: N images, S×S pixels, C = 3 channels (RGB). Distances are negative inside a shape.
"""

from collections.abc import Callable

import numpy as np

from tenfold.data.dataset import Dataset, Split, to_bytes
from tenfold.data.entry import DatasetEntry, register_dataset

Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(x, y), float32 of one shape, in units of the shape's radius, to distances of that shape in the same unit."""


def make_shapes(seed: int = 0, train: int = 5_000, test: int = 1_000, size: int = 32) -> Dataset:
    """Draw `train` and `test` images of `size`×`size` pixels; same arguments, same bytes.

    Classes are as frequent as each other (to within one image) and in random order.
    """
    splits = (_draw_split(np.random.default_rng([seed, i]), count, size) for i, count in enumerate((train, test)))
    return Dataset("shapes", tuple(_DISTANCES), next(splits), next(splits))


def _draw_split(rng: np.random.Generator, count: int, size: int) -> Split:
    labels = rng.permutation(np.arange(count) % len(_DISTANCES)).astype(np.uint8)
    distances = _distances(rng, labels, size)
    dark, light = rng.uniform(0.05, 0.4, (count, 3)), rng.uniform(0.6, 0.95, (count, 3))
    inverted = rng.random((count, 1)) < 0.5
    background, foreground = np.where(inverted, light, dark), np.where(inverted, dark, light)
    coverage = np.clip(0.5 - distances, 0, 1)[..., None]  # anti-aliased: a pixel on the edge is half covered
    images = _spread(background) * (1 - coverage) + _spread(foreground) * coverage
    return Split(to_bytes(images + _clutter(rng, count, size)), labels)


def _spread(colours: np.ndarray) -> np.ndarray:
    """N×3 to float32 N×1×1×3, for broadcasting over pixels."""
    return colours.astype(np.float32)[:, None, None, :]


def _distances(rng: np.random.Generator, labels: np.ndarray, size: int) -> np.ndarray:
    """Signed distances in pixels, float32 N×S×S, each shape at a random place, size and angle."""
    count = len(labels)
    radius = rng.uniform(0.27, 0.42, (count, 1, 1)).astype(np.float32) * size
    centre = (rng.uniform(-1, 1, (2, count, 1, 1)) * (0.47 * size - radius) + size / 2).astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi, (count, 1, 1)).astype(np.float32)
    row, column = np.mgrid[:size, :size].astype(np.float32) + 0.5
    x, y = (column - centre[0]) / radius, (row - centre[1]) / radius
    x, y = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
    distances = np.empty_like(x)
    for label, distance in enumerate(_DISTANCES.values()):
        chosen = labels == label
        distances[chosen] = distance(x[chosen], y[chosen])
    return distances * radius


def _clutter(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """A slope of light, soft coloured blotches and pixel noise, float32 N×S×S×3.

    Slope and blotches stay within ±0.15 together, less than the 0.2 between any dark and any light colour.
    """
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    slope = rng.uniform(-0.03, 0.03, (2, count, 1, 1, 1)).astype(np.float32)
    blotches = rng.uniform(-0.09, 0.09, (count, size // 8 + 1, size // 8 + 1, 3)).astype(np.float32)
    blotches = blotches.repeat(8, axis=1).repeat(8, axis=2)[:, :size, :size]
    noise = rng.standard_normal((count, size, size, 3), dtype=np.float32) * 0.07
    return slope[0] * ramp[:, None, None] + slope[1] * ramp[None, :, None] + blotches + noise


# The shapes, each within the unit circle. Corners of intersections are exact enough for drawing.


def _disk(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - 0.9


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(x, y) - 0.75) - 0.18


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.7


def _frame(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.maximum(np.abs(x), np.abs(y)) - 0.57) - 0.14


def _bar(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x) - 0.97, np.abs(y) - 0.22)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.minimum(_bar(x, y), _bar(y, x))


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.sqrt(3) / 2 * np.abs(x) + y / 2, -y) - 0.5


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Five points at radius 1 and dents at 0.45: ten mirrored copies of one straight edge."""
    sector = np.pi / 5
    angle = np.abs((np.arctan2(x, y) + sector) % (2 * sector) - sector)  # 0 at a point, `sector` at a dent
    radius = np.hypot(x, y)
    dent_x, dent_y = 0.45 * np.sin(sector), 0.45 * np.cos(sector)
    normal = np.array([1 - dent_y, dent_x]) / np.hypot(1 - dent_y, dent_x)
    return radius * np.sin(angle) * normal[0] + (radius * np.cos(angle) - 1) * normal[1]


def _crescent(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.hypot(x, y) - 0.97, 0.75 - np.hypot(x - 0.45, y))


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A square on its corner, and a disk on each of its upper sides."""
    x, y = np.abs(x), y + 0.12
    side = 0.52
    square = np.maximum((x + y) / np.sqrt(2), np.abs(x - y) / np.sqrt(2)) - side
    half = side / np.sqrt(2)
    square = np.maximum(square, -(x + y) / np.sqrt(2) - side)
    return np.minimum(square, np.hypot(x - half, y - half) - side)


_DISTANCES: dict[str, Distance] = {
    "disk": _disk,
    "ring": _ring,
    "square": _square,
    "frame": _frame,
    "bar": _bar,
    "cross": _cross,
    "triangle": _triangle,
    "star": _star,
    "crescent": _crescent,
    "heart": _heart,
}


register_dataset(
    DatasetEntry(
        name="shapes",
        title="shapes",
        classes=tuple(_DISTANCES),
        shape=(32, 32, 3),
        train=5_000,
        test=1_000,
        format="generated",
        licence="MIT, as tenfold's",
        citation="none needed",
        make=make_shapes,
        usual=True,
    )
)
