"""Images made from a seed, to check a model file on where no real ones are at hand: the same ones every time.

What a wrong graph would answer otherwise must show on them, so they are of four kinds: drawn shapes, the same with
little contrast, two blended into one, and blocks of random colours from coarse to single pixels. Among them are images
of which any network is sure and many of which it is not; on a single kind, it often gives one answer to all.
"""

import numpy as np

from tenfold.data.shapes import make_shapes

COUNT = 500
_SEED = 20_261_129
_MOST_NUMBERS = 2**23  # at sides of more than 74 pixels there are fewer images, so that it stays quick
_LEAST = 32
_BLOCKS = (1, 2, 4, 8)


def synthetic_images(size: int) -> np.ndarray:
    """uint8 N×S×S×3 for S = `size`; N is `COUNT`, less for large sides."""
    count = min(COUNT, max(_LEAST, _MOST_NUMBERS // (3 * size * size)))
    rng = np.random.default_rng(_SEED)
    drawn = make_shapes(_SEED, train=count, test=count, size=size)
    plain, faded, first, _ = np.array_split(drawn.train.images, 4)
    second = drawn.test.images[: len(first)]
    blocks = _colour_blocks(rng, count - len(plain) - len(faded) - len(first), size)
    return np.concatenate([plain, _fade(rng, faded), _blend(rng, first, second), blocks])


def _fade(rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
    """Move images N×S×S×3 towards a colour each, until a twentieth to a half of their contrast is left."""
    colours = rng.integers(0, 256, (len(images), 1, 1, 3))
    return _mix(images, colours, rng.uniform(0.05, 0.5, len(images)))


def _blend(rng: np.random.Generator, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return _mix(first, second, rng.uniform(0.2, 0.8, len(first)))


def _mix(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    weight = share.astype(np.float32)[:, None, None, None]
    return (weight * first + (1 - weight) * second).round().astype(np.uint8)


def _colour_blocks(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    parts = []
    for numbers, side in zip(np.array_split(np.arange(count), len(_BLOCKS)), _BLOCKS, strict=True):
        cells = -(-size // side)
        colours = rng.integers(0, 256, (len(numbers), cells, cells, 3), dtype=np.uint8)
        parts.append(colours.repeat(side, axis=1).repeat(side, axis=2)[:, :size, :size])
    return np.concatenate(parts)
