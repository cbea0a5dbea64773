"""Many small images in one picture, from which the page shows each by a rule of its style sheet.

Legend: N images, H×W pixels.
"""

import base64
import io
import math

import numpy as np
from PIL import Image

from tenfold.data.stored import Images

COLUMNS = 40
MOST_IMAGES = 1800
MOST_PIXELS = MOST_IMAGES * 32 * 32
MOST_BYTES = 3_400_000
"""Of the picture, before base64 adds a third; beyond this it is stored with losses."""


def most_images(height: int, width: int) -> int:
    """How many images of this size a page has room for."""
    return max(COLUMNS, min(MOST_IMAGES, MOST_PIXELS // (height * width)))


def make_sheet(images: Images, numbers: np.ndarray, kind: str = "") -> str:
    """Lay the images uint8 N×H×W×3 of these `numbers` out in rows of 40; CSS with a rule for each: `.i0`, `.i1`, …

    A second sheet of the page has a `kind`: its rules are `.image.KIND.i0`, ….
    """
    chosen = images[numbers]
    rows = max(1, math.ceil(len(chosen) / COLUMNS))
    height, width = images.shape[1:3]
    # with an edge of its own pixels around each, since browsers show a sliver of what lies beside it
    edged = np.pad(chosen, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    cells = np.zeros((rows * COLUMNS, height + 2, width + 2, 3), np.uint8)
    cells[: len(chosen)] = edged
    pixels = cells.reshape(rows, COLUMNS, height + 2, width + 2, 3).swapaxes(1, 2)
    webp = _encode(pixels.reshape(rows * (height + 2), COLUMNS * (width + 2), 3))
    return _style(webp, len(chosen), rows, (height, width), kind and f".image.{kind}")


def _encode(pixels: np.ndarray) -> bytes:
    """As WebP: exact where that is small enough."""
    exact = _to_webp(pixels, lossless=True, method=0, quality=20)  # other settings: a twentieth smaller, 100 × slower
    return exact if len(exact) <= MOST_BYTES else _to_webp(pixels, quality=80)


def _to_webp(pixels: np.ndarray, **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", **options)
    return buffer.getvalue()


def _style(webp: bytes, count: int, rows: int, side: tuple[int, int], prefix: str) -> str:
    height, width = side
    address = f"data:image/webp;base64,{base64.b64encode(webp).decode()}"
    whole = COLUMNS * (width + 2), rows * (height + 2)
    size = f"{100 * whole[0] / width:.7g}% {100 * whole[1] / height:.7g}%"
    shared = f"aspect-ratio:{width / height:.4f};background-image:url({address});background-size:{size}"
    rules = [f"{prefix or '.image'}{{{shared}}}"]
    for number in range(count):
        row, column = divmod(number, COLUMNS)
        x = (
            100 * (column * (width + 2) + 1) / (whole[0] - width)
        )  # percent of what the picture is larger than the place
        y = 100 * (row * (height + 2) + 1) / (whole[1] - height)
        rules.append(f"{prefix}.i{number}{{background-position:{x:.5g}% {y:.5g}%}}")
    return "\n".join(rules)
