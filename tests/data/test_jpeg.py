"""JPEGs without their end: read where every row is there, refused where one is missing; large ones; rare kinds."""

import io

import numpy as np
import pytest
from PIL import Image

from tenfold.data.image import decode, decode_whole
from tenfold.errors import ImageError
from tests.support.images import save

NOISE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
ROWS, COLUMNS = np.mgrid[:120, :160]
SMOOTH = np.stack([COLUMNS, ROWS * 2, (COLUMNS + ROWS) // 2], axis=-1).astype(np.uint8)
SMOOTH[80:] = 255  # a sky: rows that are missing are not seen by how many bytes they have
WAYS = {
    "baseline": {},
    "tables of its own": {"optimize": True},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_blocks": 3},
    "restart markers, a row each": {"restart_marker_rows": 1},
    "progressive, restart markers": {"progressive": True, "restart_marker_rows": 1},
    "without subsampling": {"subsampling": 0},
}
FILES = {
    f"{pixels}, {mode}, {way}": save(Image.fromarray(image).convert(mode), "JPEG", **options)
    for pixels, image in (("noise", NOISE), ("smooth", SMOOTH))
    for mode in ("RGB", "L", "CMYK")
    for way, options in WAYS.items()
}


@pytest.mark.parametrize("name", FILES)
def test_only_the_end_marker_may_be_missing(name: str) -> None:
    """Pillow reads the whole file as we do; one or both bytes of the marker less change nothing."""
    content = FILES[name]
    whole = decode_whole(content)
    variants = [content[:-1], content[:-2], content + b"more\xff\xd8\xff", content + bytes(99)]
    if content[-3]:  # else its last byte of data cannot be told from the zeros, and it is refused
        variants += [content[:-2] + bytes(500), content[:-1] + bytes(500)]
    for variant in variants:
        np.testing.assert_array_equal(decode_whole(variant), whole)


@pytest.mark.parametrize("filled", [0, 500])
@pytest.mark.parametrize("name", FILES)
def test_no_image_is_read_whose_rows_are_missing(name: str, filled: int) -> None:
    """Cut at many lengths, also with zeros in place of the rest as in a broken download: the same pixels, or refused.

    Without random data put behind it: rows of grey. Without looking for the end marker: zeros were taken for rows.
    """
    content = FILES[name]
    whole, refused = decode_whole(content), 0
    lengths = [*range(len(content) - 24, len(content)), *range(100, len(content), max(1, len(content) // 25))]
    for length in lengths:
        try:
            np.testing.assert_array_equal(decode_whole(content[:length] + bytes(filled)), whole)
        except ImageError as error:
            assert "JPEG" in str(error)
            refused += 1
    assert refused >= 20


def test_a_progressive_file_without_its_last_scans_is_refused() -> None:
    """Each scan that is there is complete, and yet the image is blurred."""
    content = FILES["noise, RGB, progressive"]
    scans = [at for at in range(len(content)) if content[at : at + 2] == b"\xff\xda"]
    tables = [content.rfind(b"\xff\xc4", 0, at) for at in scans]
    for end in (scans[-1], tables[-1], scans[3]):
        with pytest.raises(ImageError, match="a JPEG file that is cut short"):
            decode_whole(content[:end])


# --- large ------------------------------------------------------------------------------------------------------------


def scene(height: int, width: int) -> np.ndarray:
    """A gradient with a bright rectangle, so that every turn and shift shows."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[...] = np.linspace(0, 200, width, dtype=np.uint8)[None, :, None]
    pixels[..., 1] = np.linspace(0, 255, height, dtype=np.uint8)[:, None]
    pixels[height // 8 : height // 3, width // 2 : width * 3 // 4] = (255, 30, 60)
    return pixels


@pytest.mark.parametrize("resize", ["stretch", "center_crop", "pad"])
def test_a_large_photo_looks_as_it_does_decoded_whole(resize: str) -> None:
    """17.3 million pixels, more than 2**24, with odd sides, turned: close to the means of what was drawn."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = scene(3_601, 4_801)
    content = save(pixels, "JPEG", quality=95, exif=exif)
    turned = np.rot90(pixels, -1)
    height, width = turned.shape[:2]
    box = (0, 0, width, height)
    if resize == "center_crop":
        box = (0, (height - width) / 2, width, (height + width) / 2)
    expected = np.asarray(Image.fromarray(turned).resize((32, 32), Image.Resampling.BOX, box)).astype(float)
    decoded = decode(content, 32, resize).astype(float)
    if resize == "pad":
        expected = np.asarray(Image.fromarray(turned).resize((24, 32), Image.Resampling.BOX)).astype(float)
        decoded = decoded[:, 4:28]
    assert decode_whole(content).shape == (2_401, 1_801, 3)
    assert np.abs(decoded - expected).mean() < 2.5


def test_up_to_the_limit_a_jpeg_is_decoded_whole() -> None:
    """2**24 pixels are as Pillow decodes them, bit for bit."""
    content = save(scene(4_096, 4_096), "JPEG", quality=90)
    with Image.open(io.BytesIO(content)) as image:
        np.testing.assert_array_equal(decode_whole(content), np.asarray(image))


# --- what is not read -------------------------------------------------------------------------------------------------


def with_frame(offset: int, value: int) -> bytes:
    """A JPEG whose frame header has another value: precision at 4, components at 9."""
    content = bytearray(FILES["noise, RGB, baseline"])
    content[content.index(b"\xff\xc0") + offset] = value
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "what"),
    [(with_frame(4, 12), "a JPEG with 12 bits a value"), (with_frame(9, 2), "a JPEG with 2 components")],
)
def test_rare_kinds_are_named(content: bytes, what: str) -> None:
    with pytest.raises(ImageError, match=f"{what} is not read: save it as grey or RGB with 8 or 16 bits"):
        decode_whole(content)
