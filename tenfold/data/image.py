"""Bytes → uint8 pixels: the one decoder, used by training on folders, by prediction and by the service.

The format is decided by content, never by name. Colours are what the file's numbers say: an ICC profile or a gamma is
not applied, so that the same numbers give the same pixels everywhere. Content is not trusted: whatever is wrong with
it, an `ImageError` says so in a few words, without a path. Safe to call from many threads at once.

Metadata is taken out before Pillow sees a file (`metadata`). A file that is cut short is read all the same where what
is missing decides no pixel, such as a JPEG's end marker (`jpeg`). A large JPEG is decoded at half its scale, here and
so everywhere.

Legend: H×W pixels of an image as it is shown (EXIF orientation applied), S×S pixels of a network's input.
"""

import io
import stat
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from tenfold.data import jpeg, modes, tiff
from tenfold.data.formats import sniff
from tenfold.data.metadata import png_chunks, take_out
from tenfold.errors import ImageError, TooManyPixelsError

MOST_SIDE = 2**16 - 1
"""Pixels of a side, as many as a JPEG can have."""
MOST_PIXELS = 2**26
"""Of one image (8,192 × 8,192, more than a 50-megapixel phone makes); decoding it takes up to a gigabyte."""
LARGE_JPEG = 2**24
"""Pixels of a JPEG; one with more is decoded at half its scale, by which a network's input changes by next to nothing,
in a third of the time and a quarter of the memory."""
MOST_BYTES = 200_000_000
"""Of one file."""
PADDING = (128, 128, 128)
"""What `pad` fills with: a grey that is close to the mean of most images."""

# named, so that Pillow need not import all it has to find them
_PLUGINS = (BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin)
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_KINDS = "grey or RGB with 8 or 16 bits"

# what Pillow reports about odd metadata concerns no user; process-wide, since a local filter is not thread-safe
warnings.filterwarnings("ignore", module=r"PIL\.")


class Decoded(NamedTuple):
    """Pixels, and of a file with 16-bit values how many of their bits it uses: 1 to 16, 0 for all other files."""

    pixels: np.ndarray
    bits: int


def decode(
    content: bytes,
    size: int,
    resize: str = "stretch",
    most_pixels: int = MOST_PIXELS,
    bit_depth: int = modes.FULL_DEPTH,
) -> np.ndarray:
    """Decode a file's bytes to uint8 S×S×3, RGB, contiguous. `resize` is one of `RESIZES`. Raises `ImageError`."""
    return resize_pixels(decode_whole(content, most_pixels, bit_depth), size, resize)


def decode_whole(content: bytes, most_pixels: int = MOST_PIXELS, bit_depth: int = modes.FULL_DEPTH) -> np.ndarray:
    """Decode a file's bytes to uint8 H×W×3, RGB, contiguous: `decode_measured`'s pixels."""
    return decode_measured(content, most_pixels, bit_depth).pixels


def decode_measured(content: bytes, most_pixels: int = MOST_PIXELS, bit_depth: int = modes.FULL_DEPTH) -> Decoded:
    """Decode a file's bytes to uint8 H×W×3, RGB, contiguous, at the image's own size, a JPEG's above `LARGE_JPEG` at
    half of it.

    Of an animation it is the first frame, of several pages the first. 16-bit values are scaled to 8 bits as if
    `bit_depth` (8 to 16) of their bits were used; what is transparent shows white. A file that lacks pixels is refused,
    as are more than `most_pixels` (of a JPEG `MOST_PIXELS`), known before they are decoded. Raises `ImageError`, for
    too many pixels `TooManyPixelsError`.
    """
    kind = sniff(content)
    if kind is None:
        raise ImageError(_what_instead(content))
    if len(content) > MOST_BYTES:
        raise ImageError(f"larger than {MOST_BYTES:,} bytes")
    try:
        plain, orientation = take_out(content, kind)
        rgb, bits = _to_rgb(plain, kind, most_pixels, bit_depth)
        turn = _ORIENTATIONS.get(orientation)
        return Decoded(np.array(rgb if turn is None else rgb.transpose(turn)), bits)
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError("it takes more memory to read than there is") from error
    except Image.DecompressionBombError as error:  # Pillow's own cap comes first for the largest
        raise TooManyPixelsError("far more pixels than are read") from error
    except Exception as error:  # hostile bytes can raise anything within Pillow
        raise ImageError(_reason(error, content, kind)) from error


def _to_rgb(content: bytes, kind: str, most: int, bit_depth: int) -> tuple[Image.Image, int]:
    """Bring a file without metadata to RGB, and say how many of 16 bits it uses."""
    header = _open(content, kind, most)
    deep = modes.reads_upper_bytes(header)
    raw_mode = modes.raw_mode(header.tile[0]) if deep else ""
    image = _loaded(header, content, kind, most)
    if modes.is_deep_grey(image):
        return modes.deep_grey(image, bit_depth)
    if not deep:
        return modes.to_rgb(image, png_depth=content[24]), 0
    bits = modes.colour_bits(image)
    if bit_depth == modes.FULL_DEPTH:
        return modes.to_rgb(image, png_depth=content[24]), bits
    lower = _open(content, kind, most)
    modes.read_lower_bytes(lower)
    lower.load()
    return modes.deep_colours(image, lower, raw_mode, bit_depth), bits


def _open(content: bytes, kind: str, most: int) -> ImageFile.ImageFile:
    """Read a file's header, and refuse by it what has too many pixels or values that are not read."""
    if kind == "TIFF" and tiff.is_signed(content):
        raise ImageError(f"{tiff.unusual(content)} is not read: save it as {_KINDS}")
    image = Image.open(io.BytesIO(content), formats=[kind])
    if image.mode not in modes.READ:
        what = tiff.unusual(content) if kind == "TIFF" else None
        raise ImageError(f"{what or f'a {kind} file of mode {image.mode}'} is not read: save it as {_KINDS}")
    width, height = image.size
    _check_pixels(width, height, kind, most)
    if kind == "JPEG" and width * height > LARGE_JPEG:
        image.draft(None, (max(1, width // 2), max(1, height // 2)))
    return image


def _loaded(image: ImageFile.ImageFile, content: bytes, kind: str, most: int) -> Image.Image:
    """Decode the pixels; of a file that is cut short only where all ways to go on give the same ones."""
    try:
        if kind == "JPEG" and not jpeg.has_end(content):
            raise OSError("truncated")
        image.load()
        return image
    except OSError as error:
        if "truncated" not in str(error):
            raise
        ended = [_open(whole, kind, most) for whole in _endings(content, kind)]
        if not ended:
            raise
        first = np.asarray(ended[0])
        if not all(np.array_equal(first, np.asarray(other)) for other in ended[1:]):
            raise
        return ended[0]


def _endings(content: bytes, kind: str) -> list[bytes]:
    """A file that is cut short, with different bytes for what is missing: an end marker, or padding."""
    if kind == "JPEG":
        return jpeg.endings(content)
    return [content + fill * 3 for fill in (b"\0", b"\xff", b"\x55")] if kind == "BMP" else []


def resize_pixels(pixels: np.ndarray, size: int, resize: str) -> np.ndarray:
    """Bring uint8 H×W×3 to S×S×3 by bicubic interpolation over all pixels; what is S×S already stays bit for bit.

    `stretch` takes the whole image whatever its shape; `center_crop` its central square; `pad` the whole image in its
    shape, with grey beside it.
    """
    height, width = pixels.shape[:2]
    if height == width == size:
        return pixels
    image, box, inner = Image.fromarray(pixels), (0, 0, width, height), (size, size)
    if resize == "center_crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        box = (left, top, left + side, top + side)
    elif resize == "pad":
        longest = max(width, height)
        inner = (max(1, round(size * width / longest)), max(1, round(size * height / longest)))
    resized = image.resize(inner, Image.Resampling.BICUBIC, box)
    return np.array(resized if resize != "pad" else _padded(resized, size))


def _padded(image: Image.Image, size: int) -> Image.Image:
    canvas = Image.new("RGB", (size, size), PADDING)
    canvas.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return canvas


def read_file(path: Path) -> bytes:
    """Read the file of one image. Raises `ImageError` for what is no file, is too large or cannot be read."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("not a file")
        if status.st_size > MOST_BYTES:
            raise ImageError(f"larger than {MOST_BYTES:,} bytes")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}") from error


def read_size(path: Path) -> tuple[int, int] | None:
    """Width and height by a file's header, before it is turned upright; None where that cannot be read."""
    try:
        with path.open("rb") as file:
            kind = sniff(file.read(18))
            return Image.open(file, formats=[kind]).size if kind else None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _what_instead(content: bytes) -> str:
    if not content:
        return "empty: it has zero bytes"
    return "not an image of a kind that is read here (PNG, JPEG, WebP, GIF, BMP, TIFF)"


def _check_pixels(width: int, height: int, kind: str, most: int) -> None:
    """most: pixels that may be decoded; of a JPEG, which is decoded at half its scale, there may be `MOST_PIXELS`."""
    most, less = (MOST_PIXELS, "") if kind == "JPEG" else (most, f"; a JPEG may have {MOST_PIXELS:,}")
    if width < 1 or height < 1:
        raise ImageError("it has no pixels")
    if max(width, height) > MOST_SIDE:  # resizing takes memory by the longest side
        raise TooManyPixelsError(f"{width:,} × {height:,} pixels: no side may have more than {MOST_SIDE:,}")
    if width * height > most:
        more = less if most < MOST_PIXELS else ""
        raise TooManyPixelsError(f"{width:,} × {height:,} pixels are more than the {most:,} that are read{more}")


def _reason(error: Exception, content: bytes, kind: str) -> str:
    text = " ".join(str(error).split())[:100]
    unusual = None
    if isinstance(error, UnidentifiedImageError | KeyError) or kind == "PNG":
        unusual = {"JPEG": jpeg.unusual, "TIFF": tiff.unusual, "PNG": _unusual_png}.get(kind, lambda _: None)(content)
    if unusual:
        return f"{unusual} is not read: save it as {_KINDS}"
    if "truncated" in text.lower():
        return f"a {kind} file that is cut short"
    if isinstance(error, UnidentifiedImageError) or not text:
        return f"a damaged {kind} file"
    return f"a damaged {kind} file ({text})"


def _unusual_png(content: bytes) -> str | None:
    first = next((name for _, _, name in png_chunks(content)), b"")
    return "a PNG made for iOS only (CgBI)" if first == b"CgBI" else None
