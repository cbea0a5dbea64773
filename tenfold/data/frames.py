"""How many frames or pages a file holds, of which only the first is read; by its structure, without decoding."""

from tenfold.data import tiff
from tenfold.data.metadata import end_of_blocks, gif_palette, png_chunks, webp_chunks

MOST_FRAMES = 1_000
"""As many are counted."""


def count_frames(content: bytes, kind: str | None) -> int:
    """Frames of an animation or pages of a TIFF, at least 1. Of a file that is damaged behind the first, what is whole.

    A JPEG with a preview or a depth map behind the photo counts as one: nobody takes those for its pages.
    """
    count = _COUNTS.get(kind or "")
    return min(max(1, count(content)), MOST_FRAMES) if count else 1


def _png(content: bytes) -> int:
    for begin, _, name in png_chunks(content):
        if name == b"acTL":
            return int.from_bytes(content[begin + 8 : begin + 12])
        if name == b"IDAT":
            break
    return 1


def _webp(content: bytes) -> int:
    return sum(name == b"ANMF" for _, _, name in webp_chunks(content))


def _gif(content: bytes) -> int:
    count, at = 0, 13 + gif_palette(content[10])
    while at + 10 < len(content) and count < MOST_FRAMES:
        if content[at] == 0x21:
            at = end_of_blocks(content, at + 2)
        elif content[at] == 0x2C:
            count += 1
            at = end_of_blocks(content, at + 11 + gif_palette(content[at + 9]))
        else:
            break
    return count


_COUNTS = {"TIFF": tiff.count_pages, "PNG": _png, "WEBP": _webp, "GIF": _gif}
