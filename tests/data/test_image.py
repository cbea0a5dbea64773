"""The decoder: golden pixels of every format and mode, and nothing but an `ImageError` from bytes that are bad."""

import os
import re
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tenfold.data import Dataset
from tenfold.data.formats import sniff
from tenfold.data.image import MOST_BYTES, PADDING, decode, decode_whole, read_file, resize_pixels
from tenfold.data.resize import RESIZES
from tenfold.errors import DataError, ImageError
from tests.support.images import PIXELS, oriented, png, save, tiff
from tests.support.process import run_python

# What Pillow has to say about odd metadata is silenced by a filter that pytest takes away again.
pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")

GREY = np.array([[0, 85, 170, 255]], np.uint8)  # what two bits can say
LOSSLESS = {
    "PNG": {},
    "BMP": {},
    "TIFF": {},
    "TIFF, LZW": {"compression": "tiff_lzw"},
    "TIFF, deflated": {"compression": "tiff_adobe_deflate"},
    "WEBP": {"lossless": True},
}


def rgb(*pixels: tuple[int, int, int] | int) -> np.ndarray:
    """One row of pixels; a number stands for a grey."""
    return np.array([[pixel if isinstance(pixel, tuple) else (pixel,) * 3 for pixel in pixels]], np.uint8)


# --- formats and modes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_formats_give_their_pixels(name: str) -> None:
    decoded = decode_whole(save(PIXELS, name.partition(",")[0], **LOSSLESS[name]))
    np.testing.assert_array_equal(decoded, PIXELS)
    assert decoded.dtype == np.uint8 and decoded.flags.c_contiguous and decoded.flags.writeable


def test_gif_gives_its_palette() -> None:
    np.testing.assert_array_equal(decode_whole(save(Image.fromarray(PIXELS).quantize(), "GIF")), PIXELS)


PNGS: dict[str, tuple[bytes, np.ndarray]] = {
    "1 bit": (png(4, 1, 0, [b"\x50"]), rgb(0, 255, 0, 255)),
    "1 bit, black transparent": (png(4, 1, 0, [b"\x50"], tRNS=b"\0\0"), rgb(255, 255, 255, 255)),
    "1 bit, white transparent": (png(4, 1, 0, [b"\x50"], tRNS=b"\0\1"), rgb(0, 255, 0, 255)),
    "2 bits": (png(4, 2, 0, [b"\x1b"]), rgb(0, 85, 170, 255)),
    "2 bits, 1 transparent": (png(4, 2, 0, [b"\x1b"], tRNS=b"\0\1"), rgb(0, 255, 170, 255)),
    "4 bits": (png(2, 4, 0, [b"\x3a"]), rgb(51, 170)),
    "4 bits, 3 transparent": (png(2, 4, 0, [b"\x3a"], tRNS=b"\0\3"), rgb(255, 170)),
    "8 bits": (png(2, 8, 0, [b"\x03\x40"]), rgb(3, 64)),
    "8 bits, 3 transparent": (png(2, 8, 0, [b"\x03\x40"], tRNS=b"\0\3"), rgb(255, 64)),
    "16 bits": (png(3, 16, 0, [b"\x00\xff\x40\x00\xff\xff"]), rgb(0, 64, 255)),
    "16 bits, one value transparent": (
        png(3, 16, 0, [b"\x40\x00\x40\x01\xff\xff"], tRNS=b"\x40\x01"),
        rgb(64, 255, 255),
    ),
    "grey and alpha": (png(3, 8, 4, [b"\x00\x80\x40\xff\x40\x00"]), rgb(127, 64, 255)),
    "16 bits, grey and alpha": (png(2, 16, 4, [b"\x00\x00\x80\x00\x40\x00\xff\xff"]), rgb(127, 64)),
    "RGB": (png(1, 8, 2, [b"\x01\x80\x40"]), rgb((1, 128, 64))),
    "RGB, one colour transparent": (
        png(2, 8, 2, [b"\x01\x80\x40\x02\x03\x04"], tRNS=b"\0\2\0\3\0\4"),
        rgb((1, 128, 64), 255),
    ),
    "16 bits, RGB": (png(1, 16, 2, [b"\x01\xff\x80\x00\x40\x00"]), rgb((1, 128, 64))),
    "16 bits, RGB, one colour transparent": (
        png(2, 16, 2, [b"\x01\xff\x80\x00\x40\x00\x02\x00\x03\x00\x04\x00"], tRNS=b"\2\0\3\0\4\0"),
        rgb((1, 128, 64), 255),
    ),
    # 51 of 255 is a fifth: a fifth of the colour and four fifths of white
    "RGBA": (png(2, 8, 6, [b"\x00\x64\xff\x33\x09\x08\x07\x00"]), rgb((204, 224, 255), 255)),
    "16 bits, RGBA": (png(1, 16, 6, [b"\x00\x00\x64\x00\xff\xff\x33\x33"]), rgb((204, 224, 255))),
    "palette": (png(2, 8, 3, [b"\x01\x00"], PLTE=bytes(range(10, 16))), rgb((13, 14, 15), (10, 11, 12))),
    "palette of 1 bit": (png(2, 1, 3, [b"\x80"], PLTE=bytes(range(10, 16))), rgb((13, 14, 15), (10, 11, 12))),
    "palette, one entry transparent": (
        png(2, 8, 3, [b"\x01\x00"], PLTE=bytes(range(10, 16)), tRNS=b"\xff\x00"),
        rgb(255, (10, 11, 12)),
    ),
    "palette with alpha": (
        png(2, 8, 3, [b"\x01\x00"], PLTE=bytes([0, 100, 255, 4, 5, 6]), tRNS=b"\x33\xff"),
        rgb((4, 5, 6), (204, 224, 255)),
    ),
}


@pytest.mark.parametrize("name", PNGS)
def test_png_modes(name: str) -> None:
    """Worked out by hand. Without `_scaled`: "2 bits, 1 transparent" had no transparent pixel."""
    content, expected = PNGS[name]
    np.testing.assert_array_equal(decode_whole(content), expected)


TIFFS: dict[str, tuple[bytes, np.ndarray]] = {
    "8 bits": (tiff(GREY, 1), rgb(0, 85, 170, 255)),
    "8 bits, white is zero": (tiff(GREY, 0), rgb(255, 170, 85, 0)),
    "16 bits": (tiff(np.array([[0, 255, 256, 0x8000, 0xFFFF]], np.uint16), 1), rgb(0, 0, 1, 128, 255)),
    "16 bits, white is zero": (tiff(np.array([[0, 0x8000, 0xFFFF]], np.uint16), 0), rgb(255, 127, 0)),
    "16 bits, RGB": (tiff(np.array([[[0, 0x8000, 0xFFFF]]], np.uint16), 2), rgb((0, 128, 255))),
    "CMYK": (tiff(np.array([[[0, 51, 102, 0], [0, 0, 0, 204]]], np.uint8), 5), rgb((255, 204, 153), 51)),
    "12 bits": (tiff(np.array([[0x80, 0x01, 0x23]], np.uint8), 1, bits=12), rgb(0x80, 0x12)),
}


@pytest.mark.parametrize("name", TIFFS)
def test_tiff_modes(name: str) -> None:
    """Worked out by hand. Without the photometric tag: "16 bits, white is zero" came out as its negative."""
    content, expected = TIFFS[name]
    np.testing.assert_array_equal(decode_whole(content), expected)


NOT_READ: dict[str, tuple[bytes, str]] = {
    "float grey": (tiff(np.zeros((1, 2), np.float32), 1, 3), "floating-point grey pixels (32 bits)"),
    "double grey": (tiff(np.zeros((1, 2), np.float64), 1, 3), "floating-point grey pixels (64 bits)"),
    "float RGB": (tiff(np.zeros((1, 2, 3), np.float32), 2, 3), "floating-point RGB pixels (3 bands of 32 bits)"),
    "32 bits": (tiff(np.zeros((1, 2), np.uint32), 1), "grey pixels (32 bits)"),
    "signed, 8 bits": (tiff(np.array([[-1, 1]], np.int8), 1, 2), "signed grey pixels (8 bits)"),
    "signed, 16 bits": (tiff(np.zeros((1, 2), np.int16), 1, 2), "signed grey pixels (16 bits)"),
    "signed, 32 bits": (tiff(np.zeros((1, 2), np.int32), 1, 2), "signed grey pixels (32 bits)"),
    "12 bits RGB": (tiff(np.zeros((2, 3, 3), np.uint8), 2, bits=12), "RGB pixels (3 bands of 12 bits)"),
    "five bands": (tiff(np.zeros((2, 2, 5), np.uint8), 1), "grey pixels (5 bands of 8 bits)"),
    "five bands, 16 bits": (tiff(np.zeros((2, 2, 5), np.uint16), 2), "RGB pixels (5 bands of 16 bits)"),
    "two bands": (tiff(np.zeros((2, 2, 2), np.uint8), 1), "grey pixels (2 bands of 8 bits)"),
    "LAB": (tiff(np.zeros((2, 2, 3), np.uint8), 8), "LAB pixels (3 bands of 8 bits)"),
    "LAB, 16 bits": (tiff(np.zeros((2, 2, 3), np.uint16), 8), "LAB pixels (3 bands of 16 bits)"),
    "raw camera": (tiff(np.zeros((2, 2), np.uint16), 32803), "raw camera pixels (16 bits)"),
}


@pytest.mark.parametrize("name", NOT_READ)
def test_what_is_not_read_is_named(name: str) -> None:
    """Bands, float RGB and others were "damaged"; signed bytes were read as if -1 were white."""
    content, what = NOT_READ[name]
    why = re.escape(f"a TIFF of {what} is not read: save it as grey or RGB with 8 or 16 bits")
    with pytest.raises(ImageError, match=f"^{why}$"):
        decode_whole(content)


def test_a_compression_that_is_not_read_is_named() -> None:
    content = tiff(GREY, 1).replace(struct.pack("<HHI", 259, 3, 1) + b"\1", struct.pack("<HHI", 259, 3, 1) + b"\x63")
    with pytest.raises(ImageError, match="a TIFF compressed by method 99 is not read"):
        decode_whole(content)


def test_a_png_for_ios_only_is_named() -> None:
    content = png(1, 8, 2, [b"\1\2\3"], CgBI=b"\0\0\0\1")
    chunk = content[content.index(b"CgBI") - 4 : content.index(b"CgBI") + 12]
    content = content[:8] + chunk + content[8:].replace(chunk, b"").replace(b"IDAT\x78", b"IDAT\0")
    with pytest.raises(ImageError, match="a PNG made for iOS only"):
        decode_whole(content)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "group4"])
def test_one_bit_is_black_and_white(compression: str | None) -> None:
    pixels = np.array([[0, 255, 255, 0], [255, 0, 0, 255]], np.uint8)
    content = save(Image.fromarray(pixels).convert("1"), "TIFF", compression=compression)
    np.testing.assert_array_equal(decode_whole(content), np.repeat(pixels[..., None], 3, axis=2))


def test_ycbcr_of_a_tiff() -> None:
    """By ITU-R BT.601: Y 76, Cb 85, Cr 255 is red; Y alone is grey. Within what rounding to bytes loses."""
    decoded = decode_whole(tiff(np.array([[[76, 85, 255], [100, 128, 128]]], np.uint8), 6))
    assert np.abs(decoded.astype(int) - [[[254, 0, 0], [100, 100, 100]]]).max() <= 1


@pytest.mark.parametrize("inverted", [False, True])
def test_cmyk_jpeg_of_adobe_is_not_a_negative(inverted: bool) -> None:
    """Adobe stores CMYK as its complement, which Pillow writes, too; a marker of YCCK would say otherwise."""
    white = Image.new("CMYK", (16, 16), (0, 0, 0, 0) if not inverted else (0, 0, 0, 255))
    assert np.abs(decode_whole(save(white, "JPEG", quality=95)).astype(int) - (0 if inverted else 255)).max() <= 1


def test_the_first_of_several_images_in_a_jpeg() -> None:
    """As phones store a preview or a depth map behind the photo (MPO)."""
    photo, preview = Image.new("RGB", (16, 16), (200, 100, 50)), Image.new("RGB", (8, 8), (0, 0, 255))
    decoded = decode_whole(save(photo, "MPO", save_all=True, append_images=[preview], quality=95))
    assert decoded.shape == (16, 16, 3) and np.abs(decoded - np.array((200, 100, 50))).max() <= 2


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_modes(mode: str) -> None:
    """A flat colour survives JPEG to within 2. CMYK's is (255 − C)(255 − K) / 255, and so on."""
    colours = {"RGB": ((200, 100, 50), (200, 100, 50)), "L": (77, (77, 77, 77)), "CMYK": ((0, 51, 102, 51), None)}
    colour, expected = colours[mode]
    expected = expected or tuple((255 - part) * (255 - 51) / 255 for part in (0, 51, 102))
    decoded = decode_whole(save(Image.new(mode, (16, 16), colour), "JPEG", quality=95))
    assert decoded.shape == (16, 16, 3)
    assert np.abs(decoded - np.array(expected)).max() <= 2


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.fromarray(np.full((4, 4, 3), value, np.uint8)) for value in (10, 200)]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = save(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert decode_whole(content).tolist() == np.full((4, 4, 3), 10).tolist()


TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    # EXIF 2.3, 4.6.4: where row 0 and column 0 of the stored pixels are to be seen
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored.swapaxes(0, 1)[::-1, ::-1],
    8: lambda stored: np.rot90(stored),
    9: lambda stored: stored,  # no such orientation
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_exif_orientation(orientation: int, kind: str) -> None:
    pixels = PIXELS.repeat(8, axis=0).repeat(8, axis=1)  # blocks that JPEG keeps apart
    options = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}[kind]
    decoded = decode_whole(oriented(orientation, kind, pixels, **options)).astype(int)
    expected = TURNS[orientation](pixels)
    assert decoded.shape == expected.shape
    assert np.abs(decoded - expected).max() <= (3 if kind == "JPEG" else 0)


def test_orientation_turns_what_has_alpha_or_16_bits() -> None:
    rgba = Image.fromarray(PIXELS).convert("RGBA")
    exif = Image.Exif()
    exif[0x0112] = 6
    np.testing.assert_array_equal(decode_whole(save(rgba, "PNG", exif=exif)), np.rot90(PIXELS, -1))
    deep = Image.fromarray(np.array([[0, 0x4000, 0xFFFF]], np.uint16))
    np.testing.assert_array_equal(decode_whole(save(deep, "PNG", exif=exif)), rgb(0, 64, 255).swapaxes(0, 1))


@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0"])
def test_broken_exif_is_no_reason_to_refuse(exif: bytes) -> None:
    """Without the except clause: Pillow's SyntaxError made it a damaged file."""
    np.testing.assert_array_equal(decode_whole(save(PIXELS, "PNG", exif=exif)), PIXELS)


# --- to the input's size ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resize", RESIZES)
def test_images_of_the_right_size_stay_bit_for_bit(resize: str, cifar10: Dataset) -> None:
    for pixels in cifar10.test.images[:50]:
        np.testing.assert_array_equal(decode(save(np.array(pixels), "PNG"), 32, resize), pixels)


def halves(height: int, width: int) -> np.ndarray:
    """Left half black, right half white."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, width // 2 :] = 255
    return pixels


def test_stretch_shows_all_of_it() -> None:
    small = resize_pixels(halves(10, 80), 8, "stretch")
    assert small.shape == (8, 8, 3)
    assert (small[:, :3] == 0).all() and (small[:, 5:] == 255).all()


def test_crop_takes_the_central_square() -> None:
    pixels = np.zeros((8, 40, 3), np.uint8)
    pixels[:, 16:24] = np.arange(64).reshape(8, 8, 1)
    np.testing.assert_array_equal(resize_pixels(pixels, 8, "center_crop"), pixels[:, 16:24])
    np.testing.assert_array_equal(
        resize_pixels(pixels.swapaxes(0, 1), 8, "center_crop"), pixels[:, 16:24].swapaxes(0, 1)
    )


def test_pad_keeps_the_shape_and_fills_with_grey() -> None:
    padded = resize_pixels(np.full((20, 40, 3), 7, np.uint8), 8, "pad")
    assert (padded[2:6] == 7).all()
    assert (padded[[0, 1, 6, 7]] == PADDING[0]).all()


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("shape", [(1, 5_000), (5_000, 1), (1, 1), (31, 33), (64, 64)])
def test_every_shape_is_brought_to_size(resize: str, shape: tuple[int, int]) -> None:
    resized = resize_pixels(np.full((*shape, 3), 128, np.uint8), 32, resize)
    assert resized.shape == (32, 32, 3) and resized.flags.c_contiguous
    assert (resized == 128).all()


def test_small_is_the_mean_of_large() -> None:
    """All pixels count: stripes one pixel wide become their mean, not every n-th of them."""
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(resize_pixels(stripes, 32, "stretch")[:, 2:-2].astype(int) - 128).max() <= 1


# --- what is bad ------------------------------------------------------------------------------------------------------

# a file of each kind that is compressed, animated or plain, each with pixels that vary
NOISE = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
KINDS: dict[str, bytes] = {
    "PNG": save(NOISE, "PNG"),
    "PNG, palette": save(Image.fromarray(NOISE).quantize(), "PNG"),
    "JPEG": save(NOISE, "JPEG"),
    "JPEG, progressive": save(NOISE, "JPEG", progressive=True),
    "JPEG, CMYK": save(Image.fromarray(NOISE).convert("CMYK"), "JPEG"),
    "WEBP": save(NOISE, "WEBP"),
    "WEBP, lossless": save(NOISE, "WEBP", lossless=True),
    "GIF": save(Image.fromarray(NOISE).quantize(), "GIF"),
    "BMP": save(NOISE, "BMP"),
    "BMP, palette": save(Image.fromarray(NOISE).quantize(), "BMP"),
    "TIFF": save(NOISE, "TIFF"),
    "TIFF, LZW": save(NOISE, "TIFF", compression="tiff_lzw"),
    "TIFF, JPEG": save(NOISE, "TIFF", compression="jpeg"),
}


@pytest.mark.parametrize("name", KINDS)
def test_cut_short_is_refused(name: str) -> None:
    """At every tenth length: refused, or nothing that matters was cut off. Never an image filled up with grey."""
    content = KINDS[name]
    whole, refused = decode_whole(content), 0
    lengths = [*range(0, len(content), max(1, len(content) // 100)), *range(len(content) - 8, len(content))]
    for length in lengths:
        try:
            np.testing.assert_array_equal(decode_whole(content[:length]), whole)
        except ImageError:
            refused += 1
    assert refused >= 0.9 * (len(lengths) - 8)


@pytest.mark.parametrize("name", KINDS)
def test_mutated_files_give_pixels_or_an_image_error(name: str) -> None:
    rng = np.random.default_rng(1)
    content, outcomes = np.frombuffer(KINDS[name], np.uint8), set()
    for _ in range(300):
        mutant = content.copy()
        where = rng.integers(0, min(len(mutant), rng.choice([64, 512, 10**6])), rng.integers(1, 6))
        mutant[where] = rng.integers(0, 256, len(where))
        try:
            pixels = decode_whole(mutant.tobytes())
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
            outcomes.add("pixels")
        except ImageError as error:
            assert str(error) and "\n" not in str(error) and "0x" not in str(error)
            outcomes.add("error")
    assert "error" in outcomes


def test_what_may_be_missing_at_the_end() -> None:
    """No pixel: the end mark of a PNG or GIF, the padding of a BMP's last row or of a WebP's last chunk."""
    pixels = np.ascontiguousarray(PIXELS[:, :3])  # rows of 9 bytes and 3 of padding
    bmp, webp = save(pixels, "BMP"), save(pixels, "WEBP", lossless=True)
    assert webp[16] % 2 == 1 and webp[-1] == 0
    whole = [save(pixels, "PNG")[:-12], save(Image.fromarray(pixels).quantize(), "GIF")[:-1]]
    for content in [*whole, bmp[:-1], bmp[:-2], bmp[:-3], webp[:-1]]:
        np.testing.assert_array_equal(decode_whole(content), pixels)
    for content, kind in [(bmp[:-4], "BMP"), (webp[:-2], "WEBP")]:
        with pytest.raises(ImageError, match=f"{kind} file"):
            decode_whole(content)


BAD: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "empty: it has zero bytes"),
    "text": (b"not a picture at all", "not an image of a kind that is read here"),
    "PPM": (b"P6 1 1 255\n\0\0\0", "not an image of a kind"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image of a kind"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image of a kind"),
    "signature alone": (b"\x89PNG\r\n\x1a\n", "a damaged PNG file"),
    "no pixels": (png(0, 8, 2, [b""]), "PNG"),
    "huge PNG": (png(1, 8, 0, [b""])[:16] + struct.pack(">II", 13_000, 13_000), "PNG"),
    "huge BMP": (
        save(PIXELS, "BMP")[:18] + struct.pack("<ii", 9_000, 9_000) + save(PIXELS, "BMP")[26:],
        "9,000 × 9,000 pixels",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_say_why(name: str) -> None:
    content, why = BAD[name]
    with pytest.raises(ImageError, match=why):
        decode_whole(content)
    assert issubclass(ImageError, DataError)


BOMBS = """
import io, resource, sys, zlib
from PIL import Image
from tests.support.images import png
from tenfold.data.image import decode, decode_whole
from tenfold.errors import ImageError
bombs = [png(side, 1, 0, [bytes(side // 8)] * side) for side in (9_000, 13_000, 30_000)]
buffer = io.BytesIO()
Image.new("1", (12_000, 12_000)).save(buffer, "TIFF", compression="group4")
bombs.append(buffer.getvalue())
decode(png(8, 1, 0, [b"x"]), 8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for bomb in bombs:
    try:
        decode(bomb, 32)
    except ImageError as error:
        print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_bombs_are_refused_by_their_header() -> None:
    """With no memory used and no warning printed, in a process of its own."""
    ended = run_python(BOMBS, check=True)
    *reasons, kilobytes = ended.stdout.splitlines()
    assert len(reasons) == 4 and all("pixels" in reason for reason in reasons)
    assert "9,000 × 9,000 pixels are more than the 67,108,864 that are read" in reasons[0]
    assert int(kilobytes) < 20_000
    assert ended.stderr == ""


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A named pipe would be waited for; a large file would fill the memory."""
    os.mkfifo(tmp_path / "pipe.png")
    large = tmp_path / "large.png"
    large.touch()
    os.truncate(large, MOST_BYTES + 1)
    for path, why in [(tmp_path, "not a file"), (tmp_path / "pipe.png", "not a file"), (large, "larger than")]:
        with pytest.raises(ImageError, match=why):
            read_file(path)
    with pytest.raises(ImageError, match="cannot be read: No such file"):
        read_file(tmp_path / "gone.png")
    (tmp_path / "good.png").write_bytes(save(PIXELS, "PNG"))
    np.testing.assert_array_equal(decode_whole(read_file(tmp_path / "good.png")), PIXELS)


def test_format_is_told_by_content() -> None:
    sniffed = {name: sniff(content) for name, content in KINDS.items()}
    assert sniffed == {name: name.partition(",")[0] for name in KINDS}
    assert sniff(b"RIFF\0\0\0\0WAVE") is None


def test_many_threads_at_once() -> None:
    expected = {name: decode(content, 16) for name, content in KINDS.items()}
    wrong: list[str] = []

    def work() -> None:
        for _ in range(5):
            wrong.extend(name for name, content in KINDS.items() if (decode(content, 16) != expected[name]).any())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_importing_is_light() -> None:
    heavy = {"torch", "pandas", "matplotlib", "PIL.PdfImagePlugin"}
    code = f"import sys, tenfold.data.image as i; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
