"""Bytes → uint8 pixels: the one decoder, used by training on folders, by prediction and by the service.

The format is decided by content, never by name. Colours are what the file's numbers say: an ICC profile or a gamma is
not applied, so that the same numbers give the same pixels everywhere. Content is not trusted: whatever is wrong with
it, an `ImageError` says so in a few words, without a path. Safe to call from many threads at once.

Legend: H×W pixels of a picture as it is shown (EXIF orientation applied), S×S pixels of a network's input.
"""

import io
import stat
import warnings
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from tenfold.data.dataset import Resize
from tenfold.errors import ImageError, TooManyPixelsError

RESIZES: tuple[Resize, ...] = get_args(Resize)
MOST_SIDE = 2**16 - 1
"""Pixels of a side, as many as a JPEG can have."""
MOST_PIXELS = 2**26
"""Of one image (8,192 × 8,192, more than a 50-megapixel phone makes); decoding it takes up to a gigabyte."""
MOST_BYTES = 200_000_000
"""Of one file."""
PADDING = (128, 128, 128)
"""What `pad` fills with: a grey that is close to the mean of most pictures."""

# named, so that Pillow need not import all it has to find them
_PLUGINS = (BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin)
_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"II+\x00": "TIFF",
    b"MM\x00+": "TIFF",
}
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
"""Their sizes, by version: the two letters before would make an image of any text that begins with them."""
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_ORIENTATION, _TIFF_BITS, _TIFF_PHOTOMETRIC = 0x0112, 258, 262
_WITH_ALPHA = {"LA", "La", "PA", "RGBA", "RGBa"}
_WITHOUT_ALPHA = {"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr"}

# what Pillow has to remark about odd metadata concerns no user; process-wide, since a local filter is not thread-safe
warnings.filterwarnings("ignore", module=r"PIL\.")


def decode(content: bytes, size: int, resize: str = "squash", most_pixels: int = MOST_PIXELS) -> np.ndarray:
    """Decode a file's bytes to uint8 S×S×3, RGB, contiguous. `resize` is one of `RESIZES`. Raises `ImageError`."""
    return resize_pixels(decode_whole(content, most_pixels), size, resize)


def decode_whole(content: bytes, most_pixels: int = MOST_PIXELS) -> np.ndarray:
    """Decode a file's bytes to uint8 H×W×3, RGB, contiguous, at the picture's own size.

    Of an animation it is the first frame. 16-bit values are scaled to 8 bits by their upper byte; what is transparent
    shows white. A file that is cut short is refused, as are more than `most_pixels`, known before they are decoded.
    Raises `ImageError`, for too many pixels `TooManyPixelsError`.
    """
    kind = sniff(content)
    if kind is None:
        raise ImageError(_what_instead(content))
    if len(content) > MOST_BYTES:
        raise ImageError(f"larger than {MOST_BYTES:,} bytes")
    try:
        with Image.open(io.BytesIO(content), formats=[kind]) as image:
            _check_pixels(*image.size, most_pixels)
            image.load()
            return np.array(_turned(_to_rgb(image, depth=int.from_bytes(content[24:25])), image))
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError("it takes more memory to read than there is") from error
    except Image.DecompressionBombError as error:  # Pillow's own cap comes first for the largest
        raise TooManyPixelsError("far more pixels than are read") from error
    except Exception as error:  # hostile bytes can raise anything within Pillow
        raise ImageError(_reason(error, kind)) from error


def resize_pixels(pixels: np.ndarray, size: int, resize: str) -> np.ndarray:
    """Bring uint8 H×W×3 to S×S×3 by bicubic interpolation over all pixels; what is S×S already stays bit for bit.

    `squash` takes the whole picture whatever its shape; `crop` its central square; `pad` the whole picture in its
    shape, with grey beside it.
    """
    height, width = pixels.shape[:2]
    if height == width == size:
        return pixels
    image, box, inner = Image.fromarray(pixels), (0, 0, width, height), (size, size)
    if resize == "crop":
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


def sniff(content: bytes) -> str | None:
    """Tell a format by the first 18 bytes: PNG, JPEG, GIF, BMP, TIFF, WEBP, or None for anything else."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    if content[:2] == b"BM" and int.from_bytes(content[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    return next((kind for signature, kind in _SIGNATURES.items() if content.startswith(signature)), None)


def _what_instead(content: bytes) -> str:
    if not content:
        return "empty: it has zero bytes"
    return "not an image of a kind that is read here (PNG, JPEG, WebP, GIF, BMP, TIFF)"


def _check_pixels(width: int, height: int, most: int) -> None:
    if width < 1 or height < 1:
        raise ImageError("it has no pixels")
    if max(width, height) > MOST_SIDE:  # resizing takes memory by the longest side
        raise TooManyPixelsError(f"{width:,} × {height:,} pixels: no side may have more than {MOST_SIDE:,}")
    if width * height > most:
        raise TooManyPixelsError(f"{width:,} × {height:,} pixels are more than the {most:,} that are read")


def _reason(error: Exception, kind: str) -> str:
    text = " ".join(str(error).split())[:100]
    if "truncated" in text.lower():
        return f"a {kind} file that is cut short"
    if isinstance(error, UnidentifiedImageError) or not text:
        return f"a damaged {kind} file"
    return f"a damaged {kind} file ({text})"


def _turned(rgb: Image.Image, original: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; that of a TIFF file was applied by Pillow as it was loaded."""
    try:
        orientation = original.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # a camera's broken EXIF is no reason to refuse its picture
        return rgb
    return rgb.transpose(_ORIENTATIONS[orientation]) if orientation in _ORIENTATIONS else rgb


def _to_rgb(image: Image.Image, depth: int) -> Image.Image:
    """Bring a loaded image of any mode to RGB, on white. depth: bits of a PNG's value."""
    if image.mode.startswith("I;16"):
        return _from_16_bit(image)
    if image.mode not in _WITH_ALPHA | _WITHOUT_ALPHA:
        raise ImageError(f"pixels of kind {image.mode} have no fixed range: save it with 8 or 16 bits, grey or RGB")
    if "transparency" not in image.info and image.mode in _WITHOUT_ALPHA:
        return image.convert("RGB")
    if image.format == "PNG":
        image.info["transparency"] = _scaled(image.info.get("transparency"), image.mode, depth)
    return _on_white(image.convert("RGBA"))


def _scaled(transparent: Any, mode: str, depth: int) -> Any:
    """Scale the value that a PNG calls transparent as its pixels were; Pillow leaves it as it is in the file."""
    if mode == "L" and depth < 8:
        return transparent * 255 // (2**depth - 1)
    return tuple(value >> 8 for value in transparent) if mode == "RGB" and depth == 16 else transparent


def _on_white(rgba: Image.Image) -> Image.Image:
    white = Image.new("RGB", rgba.size, "white")
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def _from_16_bit(image: Image.Image) -> Image.Image:
    """Take the upper byte of grey with 16 bits, or 12 in a TIFF; Pillow would clip at 255, and ignore WhiteIsZero."""
    values = np.asarray(image)
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    bits = tags.get(_TIFF_BITS, (16,))[0]
    grey = (values >> (bits - 8)).astype(np.uint8)
    if tags.get(_TIFF_PHOTOMETRIC) == 0:
        grey = 255 - grey
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = 255
    return Image.fromarray(grey).convert("RGB")
