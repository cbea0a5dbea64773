"""Many small images in one picture, from which the page shows each by a rule of its style sheet.

Legend: N images, H×W pixels.
"""

import base64
import io
import math

import numpy as np
from PIL import Image

COLUMNS = 40
MOST_IMAGES = 1800
MOST_PIXELS = MOST_IMAGES * 32 * 32
MOST_BYTES = 3_400_000
"""Of the picture, before base64 adds a third; beyond this it is stored with losses."""


def most_images(height: int, width: int) -> int:
    """How many images of this size a page has room for."""
    return max(COLUMNS, min(MOST_IMAGES, MOST_PIXELS // (height * width)))


def make_sheet(images: np.ndarray, numbers: np.ndarray, kind: str = "") -> str:
    """Lay the images uint8 N×H×W×3 of these `numbers` out in rows of 40; CSS with a rule for each: `.i0`, `.i1`, …

    A second sheet of the page has a `kind`: its rules are `.image.KIND.i0`, ….
    """
    chosen = images[numbers]
    rows = max(1, math.ceil(len(chosen) / COLUMNS))
    height, width = images.shape[1:3]
    cells = np.zeros((rows * COLUMNS, height, width, 3), np.uint8)
    cells[: len(chosen)] = chosen
    pixels = cells.reshape(rows, COLUMNS, height, width, 3).swapaxes(1, 2).reshape(rows * height, COLUMNS * width, 3)
    return _style(_encode(pixels), len(chosen), rows, width / height, kind and f".image.{kind}")


def _encode(pixels: np.ndarray) -> bytes:
    """As WebP: exact where that is small enough."""
    exact = _to_webp(pixels, lossless=True, method=0, quality=20)  # other settings: a twentieth smaller, 100 × slower
    return exact if len(exact) <= MOST_BYTES else _to_webp(pixels, quality=80)


def _to_webp(pixels: np.ndarray, **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", **options)
    return buffer.getvalue()


def _style(webp: bytes, count: int, rows: int, ratio: float, prefix: str) -> str:
    address = f"data:image/webp;base64,{base64.b64encode(webp).decode()}"
    size = f"{100 * COLUMNS}% {100 * rows}%"
    rules = [f"{prefix or '.image'}{{aspect-ratio:{ratio:.4f};background-image:url({address});background-size:{size}}}"]
    for number in range(count):
        row, column = divmod(number, COLUMNS)
        x, y = 100 * column / (COLUMNS - 1), 100 * row / max(1, rows - 1)
        rules.append(f"{prefix}.i{number}{{background-position:{x:.5g}% {y:.5g}%}}")
    return "\n".join(rules)
