"""Images of no class, made by code from a seed, to see whether a model notices that it does not know them.

Four kinds, from those that look a little like photos to those that never do: drawn shapes, drawn digits, noise and flat
colours. Legend: N images, S×S pixels.
"""

from collections.abc import Callable, Collection

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tenfold.data.shapes import make_shapes

COUNT = 500
"""Images of each kind."""
_SEED = 20_261_129
_DIGITS = "0123456789"


def make_unknown(size: int, classes: Collection[str], count: int = COUNT) -> dict[str, np.ndarray]:
    """uint8 N×S×S×3 by kind, for S = `size` and N = `count`; same arguments, same bytes.

    A kind is left out where the model's `classes` are of it: shapes or digits.
    """
    known = {"shapes": set(make_shapes(train=0, test=0).classes), "digits": set(_DIGITS)}
    return {
        kind: make(np.random.default_rng([_SEED, number]), count, size)
        for number, (kind, make) in enumerate(_MAKE.items())
        if not (kind in known and known[kind] <= set(classes))
    }


def _shapes(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    return make_shapes(int(rng.integers(2**31)), train=0, test=count, size=size).test.images[:]


def _digits(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """A digit each, of random height, place, slant and pair of colours."""
    font = ImageFont.load_default(size=size)
    return np.stack([_digit(rng, font, size) for _ in range(count)])


def _digit(rng: np.random.Generator, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, size: int) -> np.ndarray:
    mask = Image.new("L", (2 * size, 2 * size))
    digit = _DIGITS[rng.integers(len(_DIGITS))]
    ImageDraw.Draw(mask).text((size, size), digit, fill=255, font=font, anchor="mm")
    drawn = mask.rotate(rng.uniform(-15, 15), Image.Resampling.BILINEAR)
    side = round(size * rng.uniform(1.0, 1.6))  # what of the middle is shown: the more, the smaller the digit
    left, top = (size - side / 2 + rng.uniform(-0.1, 0.1, 2) * size).round().astype(int)
    shown = drawn.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BILINEAR)
    coverage = np.asarray(shown, np.float32)[..., None] / 255
    dark, light = rng.uniform(0, 110, 3), rng.uniform(145, 255, 3)
    ink, paper = (dark, light) if rng.random() < 0.5 else (light, dark)
    return (paper + coverage * (ink - paper)).round().astype(np.uint8)


def _noise(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Half of them pixels of any value, half of them normal noise of random mean and strength."""
    flat = rng.integers(0, 256, (count - count // 2, size, size, 3), dtype=np.uint8)
    mean, std = rng.uniform(64, 192, (count // 2, 1, 1, 3)), rng.uniform(10, 60, (count // 2, 1, 1, 1))
    normal = mean + std * rng.standard_normal((count // 2, size, size, 3), np.float32)
    return np.concatenate([flat, normal.clip(0, 255).round().astype(np.uint8)])


def _flat_colours(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    colours = rng.integers(0, 256, (count, 1, 1, 3), dtype=np.uint8)
    return np.broadcast_to(colours, (count, size, size, 3)).copy()


_MAKE: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    "shapes": _shapes,
    "digits": _digits,
    "noise": _noise,
    "flat colours": _flat_colours,
}
