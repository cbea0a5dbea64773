"""Small pictures as files of every format and mode, some written by hand because Pillow cannot write them."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tenfold.data.shapes import make_shapes

PIXELS = np.array(
    [
        [[255, 0, 0], [0, 255, 0], [0, 0, 255], [16, 32, 48]],
        [[64, 64, 64], [200, 100, 50], [1, 2, 3], [255, 255, 255]],
        [[0, 0, 0], [90, 180, 45], [17, 34, 68], [250, 5, 125]],
    ],
    np.uint8,
)
"""3 rows of 4 pixels, no two of them alike, so that every turn and every swap of channels shows."""


def save(pixels: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    """Pixels (RGB where they are an array) as a file of Pillow's making."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, depth: int, colour: int, rows: list[bytes], **chunks: bytes) -> bytes:
    """A PNG of any depth and colour type (0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA), rows as packed bytes."""
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), *((name.encode(), content) for name, content in chunks.items())]
    parts += [(b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts)


def rgb_png(*chunks: tuple[bytes, bytes], behind: bool = False, checksum: int = 0) -> bytes:
    """`PIXELS` as a PNG with chunks before or behind its data; checksum: what their own is wrong by."""
    content = save(PIXELS, "PNG")
    where = content.index(b"IEND" if behind else b"IDAT") - 4
    more = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data) ^ checksum)
        for name, data in chunks
    )
    return content[:where] + more + content[where:]


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def tiff(values: np.ndarray, photometric: int, sample_format: int = 1, bits: int = 0) -> bytes:
    """An uncompressed little-endian TIFF with one strip of H×W or H×W×C values, as they lie in memory.

    bits: of a value, where it is packed more tightly than the array's.
    """
    height, channels = len(values), values.shape[2] if values.ndim == 3 else 1
    bits = bits or 8 * values.dtype.itemsize
    width = 8 * values.nbytes // (height * channels * bits)
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: channels, 278: height}
    tags |= {279: len(data), 284: 1, 339: sample_format}
    entries, extra, end = b"", b"", 8 + len(data) + 2 + 12 * len(tags) + 4
    for tag, value in sorted(tags.items()):
        many = channels if tag in (258, 339) else 1
        packed = struct.pack("<H", value) * many if tag != 279 else struct.pack("<I", value)
        if len(packed) > 4:
            packed, extra = struct.pack("<I", end + len(extra)), extra + packed
        entries += struct.pack("<HHI", tag, 4 if tag == 279 else 3, many) + packed.ljust(4, b"\0")
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory + extra


def oriented(orientation: int, kind: str, pixels: np.ndarray = PIXELS, **options: object) -> bytes:
    """A file whose pixels are `pixels` and whose EXIF says how they are to be turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(pixels, kind, exif=exif, **options)


def write_mixed_shapes(root: Path, count: int) -> Path:
    """Drawn shapes as a folder: a class each, stored in nine ways one after the other, no two sizes quite alike."""
    drawn = make_shapes(0, count, 1, size=48)
    for number, (pixels, label) in enumerate(zip(drawn.train.images, drawn.train.labels, strict=True)):
        ending, store = _WAYS[number % len(_WAYS)]
        path = root / drawn.classes[label] / f"{number}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store(np.ascontiguousarray(pixels[number % 3 :, : 48 - number % 4])))
    return root


def _deep(pixels: np.ndarray) -> np.ndarray:
    return pixels.mean(axis=2).astype(np.uint16) * 257


_WAYS: tuple[tuple[str, Callable[[np.ndarray], bytes]], ...] = (
    (".png", lambda pixels: save(pixels, "PNG")),
    (".jpg", lambda pixels: save(pixels, "JPEG", quality=95)),
    (".cmyk.jpg", lambda pixels: save(Image.fromarray(pixels).convert("CMYK"), "JPEG", quality=95)),
    (".16-bit.png", lambda pixels: save(Image.fromarray(_deep(pixels)), "PNG")),
    (".turned.jpg", lambda pixels: oriented(6, "JPEG", np.ascontiguousarray(np.rot90(pixels)), quality=95)),
    (".rgba.webp", lambda pixels: save(Image.fromarray(pixels).convert("RGBA"), "WEBP", lossless=True)),
    (".gif", lambda pixels: save(Image.fromarray(pixels).quantize(64), "GIF")),
    (".bmp", lambda pixels: save(pixels, "BMP")),
    (".tiff", lambda pixels: save(pixels, "TIFF", compression="tiff_lzw")),
)
