"""Pillow's images of any mode → 8-bit RGB on white.

16-bit values are brought to 8 bits by `bit_depth`: how many of their bits a data set uses. A camera or a microscope
with 12 bits stores 0 to 4,095 in 16-bit files, of which the upper byte alone keeps sixteen values.
"""

from typing import Any

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

LEAST_DEPTH, FULL_DEPTH = 8, 16
_TIFF_BITS, _TIFF_PHOTOMETRIC = 258, 262
_WITH_ALPHA = {"LA", "La", "PA", "RGBA", "RGBa"}
_WITHOUT_ALPHA = {"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr"}
_DEEP_GREY = {"I;16", "I;16B", "I;16L", "I;16N"}
READ = _WITH_ALPHA | _WITHOUT_ALPHA | _DEEP_GREY
"""Pillow's modes whose values have a fixed range."""
# What Pillow reads as the upper bytes of 16-bit colours → what makes it read the lower ones. Of grey with alpha all
# four bytes are read, as if they were four channels.
_LOWER = {
    f"{name};16{order}": f"{name};16{other}"
    for name in ("RGB", "RGBA")
    for order, other in ("BL", "LB", "NB" if np.little_endian else "NL")
} | {"LA;16B": "RGBA"}


def to_rgb(image: Image.Image, png_depth: int) -> Image.Image:
    """Bring a loaded image of 8 bits or fewer to RGB, on white; png_depth: bits of a PNG's value.

    Of 16-bit colours Pillow has kept the upper bytes.
    """
    if "transparency" not in image.info and image.mode in _WITHOUT_ALPHA:
        return image.convert("RGB")
    if image.format == "PNG":
        image.info["transparency"] = _scaled(image.info.get("transparency"), image.mode, png_depth)
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


# --- 16 bits ----------------------------------------------------------------------------------------------------------


def is_deep_grey(image: Image.Image) -> bool:
    """Whether Pillow keeps all 16 bits of such an image; its colours it cuts to 8."""
    return image.mode in _DEEP_GREY


def deep_grey(image: Image.Image, bit_depth: int) -> tuple[Image.Image, int]:
    """Bring grey with 16 bits, or 12 in a TIFF, to RGB, and say how many of 16 bits it uses, 0 for a TIFF's 12.

    Pillow would clip at 255, and ignore WhiteIsZero, for which the range is that of the file's negative.
    """
    values = np.asarray(image).astype(np.uint16, copy=False)
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    declared = tags.get(_TIFF_BITS, (FULL_DEPTH,))[0]
    grey = _to_bytes(values, bit_depth if declared == FULL_DEPTH else declared)
    if tags.get(_TIFF_PHOTOMETRIC) == 0:
        grey = 255 - grey
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = 255
    return Image.fromarray(grey).convert("RGB"), used_bits(values) if declared == FULL_DEPTH else 0


def used_bits(values: np.ndarray) -> int:
    """How many bits the largest of unsigned values takes, at least 1."""
    return max(1, int(values.max()).bit_length())


def _to_bytes(values: np.ndarray, bit_depth: int) -> np.ndarray:
    """The upper 8 of so many bits; what is beyond them is 255."""
    if bit_depth < FULL_DEPTH:
        values = np.minimum(values, 2**bit_depth - 1)
    return (values >> (bit_depth - 8)).astype(np.uint8)


def reads_upper_bytes(image: ImageFile.ImageFile) -> bool:
    """Whether an image that is not loaded yet has 16-bit colours."""
    return bool(image.tile) and all(raw_mode(tile) in _LOWER for tile in image.tile)


def read_lower_bytes(image: ImageFile.ImageFile) -> None:
    """Have an image that is not loaded yet load the lower bytes of its colours."""
    tiles = image.tile
    image.tile = [tile._replace(args=_with_raw_mode(tile.args, _LOWER[raw_mode(tile)])) for tile in tiles]


def raw_mode(tile: Any) -> str:
    return str(tile.args if isinstance(tile.args, str) else tile.args[0])


def _with_raw_mode(args: Any, mode: str) -> Any:
    return mode if isinstance(args, str) else (mode, *args[1:])


def colour_bits(upper: Image.Image) -> int:
    """How many of 16 bits the largest colour uses, 8 or more, by the upper bytes; opacity does not count."""
    largest = np.asarray(upper)[..., :3].max()
    return 8 + int(largest).bit_length()


def deep_colours(upper: Image.Image, lower: Image.Image, raw_mode: str, bit_depth: int) -> Image.Image:
    """Bring 16-bit colours, their upper and their lower bytes, to RGB on white."""
    high, low = np.asarray(upper), np.asarray(lower)
    low = low[..., [1, 1, 1, 3]] if raw_mode == "LA;16B" else low
    values = high[..., :3].astype(np.uint16) << 8 | low[..., :3]
    colours = _to_bytes(values, bit_depth)
    if "transparency" in upper.info:
        colours[(values == upper.info["transparency"]).all(axis=-1)] = 255
    if upper.mode != "RGBA":
        return Image.fromarray(colours)
    return _on_white(Image.fromarray(np.dstack([colours, high[..., 3]])))
