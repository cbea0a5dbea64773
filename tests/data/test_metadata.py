"""Whatever lies beside the pixels, huge, hostile or broken, does not matter to them; the orientation is kept."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tenfold.data.image import decode_whole
from tenfold.data.metadata import MOST_PARTS, take_out
from tenfold.errors import ImageError
from tests.support.images import PIXELS, oriented, png, rgb_png, save
from tests.support.process import run_python

# What Pillow has to say about odd metadata is silenced by a filter that pytest takes away again.
pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")

BLOCKS = PIXELS.repeat(8, axis=0).repeat(8, axis=1)  # blocks that JPEG keeps apart
MEGABYTES = zlib.compress(bytes(3 * 2**20))
TURN = struct.pack("<2sHIHHHII", b"II", 42, 8, 1, 0x0112, 3, 1, 6)  # EXIF: orientation 6
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'


def segments(*parts: tuple[int, bytes]) -> bytes:
    """`BLOCKS` as a JPEG with these segments in front, each a marker and what it holds."""
    content = save(BLOCKS, "JPEG", quality=100, subsampling=0)
    more = b"".join(bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data for marker, data in parts)
    return content[:2] + more + content[2:]


CHUNKS = {
    "zTXt": (b"zTXt", b"Comment\0\0" + MEGABYTES),
    "iTXt": (b"iTXt", b"Comment\0\1\0\0\0" + MEGABYTES),
    "tEXt": (b"tEXt", b"Comment\0" + b"x" * 3 * 2**20),
    "iCCP": (b"iCCP", b"profile\0\0" + MEGABYTES),
    "zTXt of an unknown compression": (b"zTXt", b"Comment\0\7" + MEGABYTES),
    "iCCP of an unknown compression": (b"iCCP", b"profile\0\7" + MEGABYTES),
    "iCCP of nothing": (b"iCCP", b"profile\0"),
    "short gamma": (b"gAMA", b"\0"),
    "short resolution": (b"pHYs", b"\0"),
    "short animation": (b"acTL", b"\0"),
    "frame of no animation": (b"fcTL", bytes(26)),
    "private": (b"prVt", bytes(2**20)),
}


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("name", CHUNKS)
def test_png_chunks_that_decide_no_pixel(name: str, behind: bool) -> None:
    np.testing.assert_array_equal(decode_whole(rgb_png(CHUNKS[name], behind=behind)), PIXELS)


@pytest.mark.parametrize("name", [b"tEXt", b"pHYs", b"eXIf", b"iTXt"])
def test_a_wrong_checksum_matters_only_where_pixels_do(name: bytes) -> None:
    np.testing.assert_array_equal(decode_whole(rgb_png((name, TURN), checksum=1)), PIXELS)
    coloured = png(2, 8, 3, [b"\x01\x00"], PLTE=bytes(range(10, 16)), tRNS=b"\xff\x00")
    for wrong in (b"PLTE", b"tRNS"):
        at = coloured.index(wrong) + 4
        with pytest.raises(ImageError, match="damaged PNG"):
            decode_whole(coloured[:at] + bytes([coloured[at] ^ 1]) + coloured[at + 1 :])


SEGMENTS = {
    "megabytes of a vendor": [(0xE5, bytes(65_000))] * 40,
    "megabytes of comments": [(0xFE, b"x" * 65_000)] * 40,
    "profile in pieces": [(0xE2, b"ICC_PROFILE\0" + bytes([i, 40]) + bytes(60_000)) for i in range(1, 41)],
    "profile without a number": [(0xE2, b"ICC_PROFILE\0")],
    "Photoshop, cut short": [(0xED, b"Photoshop 3.0\0008BIM\0\0")],
    "JFIF, cut short": [(0xE0, b"JFIF")],
    "Adobe, cut short": [(0xEE, b"Adobe")],
    "several pictures, nonsense": [(0xE2, b"MPF\0II*\0\xff\xff\xff\xff")],
    "EXIF of nonsense": [(0xE1, b"Exif\0\0nonsense")],
    "EXIF in pieces": [(0xE1, b"Exif\0\0" + bytes(65_000))] * 40,
    "EXIF without an end": [(0xE1, b"Exif\0\0MM\0*\xff\xff\xff\xff")],
}


@pytest.mark.parametrize("name", SEGMENTS)
def test_jpeg_segments_that_decide_no_pixel(name: str) -> None:
    np.testing.assert_array_equal(decode_whole(segments(*SEGMENTS[name])), decode_whole(segments()))


def test_gif_comments() -> None:
    content = save(Image.fromarray(PIXELS).quantize(), "GIF")
    at = 13 + 3 * 2 ** ((content[10] & 7) + 1)
    blocks = b"\xff" + b"x" * 255
    for more in (b"!\xfe" + blocks * 20_000 + b"\0", b"!\xff\x0bXMP DataXMP" + blocks * 4 + b"\0", b"!\x01\x01x\0"):
        np.testing.assert_array_equal(decode_whole(content[:at] + more * 2 + content[at:]), PIXELS)


def test_webp_metadata_may_be_large_broken_or_cut_short() -> None:
    """Each way leaves the image's own chunks whole. Without `_webp`: the one that is cut short was "damaged"."""
    content = save(PIXELS, "WEBP", lossless=True, exif=b"Exif\0\0" + bytes(300_000), xmp=b"x" * 2**21)
    for variant in (content, content[:-2_000_000], content[:-1]):
        np.testing.assert_array_equal(decode_whole(variant), PIXELS)


# --- orientation ------------------------------------------------------------------------------------------------------

TURNED = {
    "PNG, eXIf": rgb_png((b"eXIf", TURN)),
    "PNG, eXIf behind": rgb_png((b"eXIf", TURN), behind=True),
    "PNG, eXIf and megabytes": rgb_png(CHUNKS["zTXt"], (b"eXIf", TURN)),
    "PNG, XMP": rgb_png((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)),
    "PNG, compressed XMP": rgb_png((b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP))),
    "PNG, raw profile": rgb_png(
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n      26\n" + TURN.hex().encode()))
    ),
    "PNG, the rest of EXIF broken": rgb_png((b"eXIf", TURN[:8] + b"\x09" + TURN[9:])),
    "WEBP, EXIF": oriented(6, "WEBP", lossless=True),
    "WEBP, XMP": save(PIXELS, "WEBP", lossless=True, xmp=XMP),
    "TIFF": oriented(6, "TIFF"),
    "TIFF, LZW": oriented(6, "TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize("name", TURNED)
def test_an_orientation_is_found_wherever_it_may_be(name: str) -> None:
    """6 is a quarter turn clockwise."""
    np.testing.assert_array_equal(decode_whole(TURNED[name]), np.rot90(PIXELS, -1))


@pytest.mark.parametrize(
    "part",
    [
        b"Exif\0\0" + TURN,
        b"http://ns.adobe.com/xap/1.0/\0" + XMP,
        b"Exif\0\0" + struct.pack(">2sHIHHHIHH", b"MM", 42, 8, 1, 0x0112, 3, 1, 6, 0),
        b"Exif\0\0" + struct.pack("<2sHIHHHII", b"II", 42, 8, 1, 0x0112, 4, 1, 6),  # as a long number
    ],
)
def test_an_orientation_of_a_jpeg(part: bytes) -> None:
    straight = decode_whole(segments())
    np.testing.assert_array_equal(decode_whole(segments((0xE1, part))), np.rot90(straight, -1))
    np.testing.assert_array_equal(decode_whole(segments((0xE1, part[:-24]))), straight)


def test_exif_goes_before_xmp() -> None:
    upright = struct.pack("<2sHIHHHII", b"II", 42, 8, 1, 0x0112, 3, 1, 1)
    xmp = (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)
    for parts in ([xmp, (0xE1, b"Exif\0\0" + upright)], [(0xE1, b"Exif\0\0" + upright), xmp]):
        np.testing.assert_array_equal(decode_whole(segments(*parts)), decode_whole(segments()))


# --- bombs ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_compressed_text_is_not_inflated() -> None:
    """A quarter of a gigabyte each, in a process of its own that may take 64 MB more than it has."""
    bomb = """
import resource, sys, zlib
from tests.support.images import PIXELS, rgb_png
from tenfold.data.image import decode_whole
packer = zlib.compressobj(1)
packed = b"".join(packer.compress(bytes(2**20)) for _ in range(256)) + packer.flush()
files = [
    rgb_png((b"zTXt", b"Comment\\0\\0" + packed)),
    rgb_png((b"iTXt", b"XML:com.adobe.xmp\\0\\1\\0\\0\\0" + packed)),
    rgb_png((b"zTXt", b"Raw profile type exif\\0\\0" + packed)),
    rgb_png((b"iCCP", b"profile\\0\\0" + packed)),
]
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**26,) * 2)
print([bool((decode_whole(content) == PIXELS).all()) for content in files])
"""
    ended = run_python(bomb)
    assert ended.stdout == "[True, True, True, True]\n", ended.stderr


def test_a_file_of_countless_parts_is_refused() -> None:
    """A million empty chunks are no image; walking them has an end."""
    empty = struct.pack(">I4sI", 0, b"prVt", zlib.crc32(b"prVt"))
    content = save(PIXELS, "PNG")
    at = content.index(b"IDAT") - 4
    with pytest.raises(ImageError, match="more than 1,048,576 parts"):
        decode_whole(content[:at] + empty * (2**20 + 1) + content[at:])


def test_a_gif_of_millions_of_extensions_is_refused() -> None:
    """Each takes three bytes, and was kept as a pair of numbers of a hundred: 20 times the file's length."""
    head = b"GIF89a" + bytes(7)
    with pytest.raises(ImageError, match="more than 1,048,576 parts"):
        take_out(head + b"!\xfe\0" * (MOST_PARTS + 1), "GIF")
    assert take_out(head + b"!\xfe\0" * 1000 + b",", "GIF") == (head + b",", 1)
