"""How many pages or frames a file has, counted without decoding, and what `tenfold data check` says of them."""

import struct
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tenfold
from tenfold.data.check import check_folder
from tenfold.data.frames import MOST_FRAMES, count_frames
from tenfold.data.image import decode_whole
from tests.support.images import PIXELS, png, save, tiff

pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")

FRAMES = [Image.fromarray(np.full((6, 6, 3), value, np.uint8)) for value in (10, 90, 200)]


def several(kind: str, count: int, **options: object) -> bytes:
    first, *others = [frame.copy() for frame in FRAMES[:count]]  # what saves an image leaves traces in it
    return save(first, kind, save_all=True, append_images=others, **options)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PNG", "WEBP"])
def test_pages_and_frames_are_counted(kind: str, count: int) -> None:
    """As many as were saved, and the first of them is read."""
    content = several(kind, count, **({"lossless": True} if kind == "WEBP" else {}))
    assert count_frames(content, kind) == count
    assert (decode_whole(content) == 10).all()


def test_pages_of_other_layouts() -> None:
    assert count_frames(several("TIFF", 3, big_tiff=True), "TIFF") == 3
    assert count_frames(several("TIFF", 2, compression="tiff_lzw"), "TIFF") == 2
    assert count_frames(save(PIXELS, "BMP"), "BMP") == count_frames(b"", None) == 1
    assert count_frames(several("MPO", 3), "JPEG") == 1


def test_what_is_broken_or_endless_is_counted_too() -> None:
    """A page whose next page is itself; one cut short; an animation that claims billions of frames."""
    one = tiff(np.zeros((2, 2), np.uint8), 1)
    (directory,) = struct.unpack_from("<I", one, 4)
    (tags,) = struct.unpack_from("<H", one, directory)
    following = directory + 2 + 12 * tags
    loop = one[:following] + struct.pack("<I", directory) + one[following + 4 :]
    nowhere = one[:following] + struct.pack("<I", 10**9) + one[following + 4 :]
    assert count_frames(loop, "TIFF") == count_frames(nowhere, "TIFF") == 1
    assert count_frames(several("GIF", 3)[:-30], "GIF") <= 3
    assert count_frames(png(1, 8, 0, [b"\0"], acTL=b"\xff" * 8), "PNG") == MOST_FRAMES


def test_counting_pages_of_a_hostile_file_looks_at_no_tags() -> None:
    """Five hundred pages of 8,192 tags each, all over the same bytes: looking at the tags took many seconds."""
    body = bytearray(struct.pack("<HHI", 12, 1, 1) * 200_000)
    head = b"II*\0" + struct.pack("<I", 8)
    content = bytearray(head + body)
    step = 2  # pages begin two bytes apart, each with its own offset of the next behind its tags
    length = 12 * 0x2000
    for number in range(500):
        at = 8 + 200_000 + number * step * 8
        struct.pack_into("<H", content, at, 0x2000)
        struct.pack_into("<I", content, at + 2 + length, at + step * 8)
    struct.pack_into("<I", content, 4, 8 + 200_000)
    began = time.process_time()
    assert count_frames(bytes(content), "TIFF") >= 500
    assert time.process_time() - began < 1


def test_training_says_that_only_the_first_page_is_read(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        (tmp_path / "scans" / name).mkdir(parents=True)
        for number in (1, 2):
            content = several("TIFF", number + 1, description=f"{name}{number}")
            (tmp_path / "scans" / name / f"{number}.tif").write_bytes(content)
    tenfold.load(str(tmp_path / "scans"))
    said = "warning: a/1.tif has 2 pages (files with more than one: 4): only the first is read"
    assert said in capsys.readouterr().err


def test_the_check_names_files_of_which_only_the_first_page_is_read(tmp_path: Path, home: Path) -> None:
    files = {"a/1.tif": several("TIFF", 3), "a/2.gif": several("GIF", 2), "b/1.tif": several("TIFF", 2)}
    files |= {"a/3.png": save(PIXELS, "PNG"), "b/2.png": save(PIXELS[::-1].copy(), "PNG")}
    for name, content in files.items():
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(content)
    found = {f.kind: f for f in check_folder(tmp_path / "images").issues if f.kind in ("pages", "frames")}
    pages, frames = found["pages"], found["frames"]
    assert pages.what == "a/1.tif has 3 pages (files with more than one: 2)"
    assert pages.paths == ("a/1.tif", "b/1.tif") and pages.severity == "warning"
    assert frames.what == "a/2.gif has 2 frames" and frames.paths == ("a/2.gif",)
