"""What an image file holds beside its pixels is taken out before a decoder sees it; only the orientation is kept.

Text, colour profiles, thumbnails and private segments have no influence on pixels, but an image library that parses
them refuses files for what is wrong there, or inflates and copies what a hostile file makes of them. Of these files
only the outer structure is walked here, in time and memory in proportion to their length. A part that is cut short or
not understood ends the walk, and what follows is left to the decoder.
"""

import re
import struct
import zlib
from collections.abc import Iterator

from tenfold.errors import ImageError

MOST_TEXT = 2**20
"""Bytes of a text that is looked into for an orientation; no more is ever inflated."""
MOST_PARTS = 2**20
"""Chunks, segments or blocks of one file."""
_ORIENTATION = 0x0112  # of EXIF 2.3, 4.6.4
_INTEGERS = {1: "B", 3: "H", 4: "I"}  # types of a TIFF value
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
Part = tuple[int, int, bytes]
"""Where a part of a file begins and ends, and what kind it is."""


def take_out(content: bytes, kind: str) -> tuple[bytes, int]:
    """Split a file of some format into bytes with the same pixels but no metadata, and its orientation.

    The orientation is that of EXIF, else that of XMP: 1 to 8, 1 where there is none. Of a TIFF or BMP nothing is taken
    out: a TIFF's tags say what its pixels are. Raises `ImageError` for more parts than any real file has.
    """
    walk = _WALKS.get(kind)
    return walk(content) if walk else (content, 1)


def exif_orientation(exif: bytes) -> int:
    """The orientation in an EXIF block, which is a TIFF header and a directory; 0 where it has none or is broken."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    try:
        if order is None:
            return 0
        (at,) = struct.unpack_from(f"{order}4xI", exif)
        (count,) = struct.unpack_from(f"{order}H", exif, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", exif, entry)
            if tag == _ORIENTATION:
                (value,) = struct.unpack_from(order + _INTEGERS[kind], exif, entry + 8)
                return value if 1 <= value <= 8 else 0
    except (struct.error, KeyError):
        pass
    return 0


def _orientation(exif: bytes, xmp: bytes) -> int:
    exif = exif.removeprefix(b"Exif\0\0")
    if turned := exif_orientation(exif):
        return turned
    found = _XMP_ORIENTATION.search(xmp, 0, MOST_TEXT)
    return int(found[1]) if found and 1 <= int(found[1]) <= 8 else 1


def _without(content: bytes, left_out: list[tuple[int, int]]) -> bytes:
    """Cut spans, in order, out of a file."""
    if not left_out:
        return content
    view, at, kept = memoryview(content), 0, []
    for begin, end in left_out:
        kept.append(view[at:begin])
        at = end
    return b"".join([*kept, view[at:]])


def _bounded(parts: Iterator[Part]) -> Iterator[Part]:
    for number, part in enumerate(parts):
        if number == MOST_PARTS:
            raise ImageError(f"it is made of more than {MOST_PARTS:,} parts")
        yield part


# --- PNG --------------------------------------------------------------------------------------------------------------


def png_chunks(content: bytes) -> Iterator[Part]:
    """The whole chunks of a PNG, each with its length, name and checksum; one that is cut short ends them."""
    at = 8
    while at + 12 <= len(content):
        length, name = struct.unpack_from(">I4s", content, at)
        end = at + 12 + length
        if end > len(content):
            return
        yield at, end, name
        if name == b"IEND":
            return
        at = end


def _png(content: bytes) -> tuple[bytes, int]:
    """Keep the critical chunks, which begin with a capital letter, and the transparent colour."""
    left_out, exif, xmp = [], b"", b""
    seen: set[bytes] = set()  # of each keyword the first chunk counts: many that inflate would take minutes
    for begin, end, name in _bounded(png_chunks(content)):
        if name[0] & 0x20 and name != b"tRNS":
            left_out.append((begin, end))
            if name in (b"eXIf", b"iTXt", b"zTXt", b"tEXt") and _is_whole(content, begin, end):
                data = content[begin + 8 : end - 4]
                keyword = name if name == b"eXIf" else name + data[:80].partition(b"\0")[0]
                if keyword in seen:
                    continue
                seen.add(keyword)
                exif = exif or (data if name == b"eXIf" else _raw_exif(data, name))
                xmp = xmp or (_png_xmp(data) if name == b"iTXt" else b"")
    return _without(content, left_out), _orientation(exif, xmp)


def _is_whole(content: bytes, begin: int, end: int) -> bool:
    (expected,) = struct.unpack_from(">I", content, end - 4)
    return zlib.crc32(memoryview(content)[begin + 4 : end - 4]) == expected


def _png_xmp(data: bytes) -> bytes:
    """The XMP of an iTXt chunk: keyword, flag, method, language, translated keyword, text."""
    keyword, _, rest = data.partition(b"\0")
    if keyword != b"XML:com.adobe.xmp" or len(rest) < 4:
        return b""
    text = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    return _inflated(text) if rest[0] else text[:MOST_TEXT]


def _raw_exif(data: bytes, name: bytes) -> bytes:
    """EXIF as older programs keep it in a PNG: digits, after three lines, in a text chunk."""
    keyword, _, text = data.partition(b"\0")
    if keyword != b"Raw profile type exif" or name == b"iTXt":
        return b""
    text = _inflated(text[1:]) if name == b"zTXt" else text[:MOST_TEXT]
    try:
        return bytes.fromhex(text.split(b"\n", 3)[3].replace(b"\n", b"").decode("ascii"))
    except (ValueError, IndexError):
        return b""


def _inflated(data: bytes) -> bytes:
    """What a text inflates to, of which at most `MOST_TEXT` bytes are."""
    try:
        return zlib.decompressobj().decompress(data, MOST_TEXT)
    except zlib.error:
        return b""


# --- JPEG -------------------------------------------------------------------------------------------------------------

_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_SOS, _COM, _APP0, _APP14, _APP15 = 0xDA, 0xFE, 0xE0, 0xEE, 0xEF
_DECIDES_COLOURS = {_APP0: (b"JFIF\0", 14), _APP14: (b"Adobe", 12)}
"""Segments that decoders look into: how they begin, and how many bytes they have at least."""
_ALONE = {*range(0xD0, 0xD9), 0x01}  # markers without a segment


def jpeg_segments(content: bytes) -> Iterator[Part]:
    """The segments of a JPEG up to the first scan's, each with its marker and length; kind: the marker's second byte.

    What is not as the standard says ends them.
    """
    at = 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF or marker in _ALONE:
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4])
        if end > len(content) or marker == 0:
            return
        yield at, end, bytes([marker])
        if marker == _SOS:
            return
        at = end


def _jpeg(content: bytes) -> tuple[bytes, int]:
    """Leave out comments and all application segments but sound ones of JFIF and Adobe, which decide the colours."""
    left_out, exif, xmp = [], b"", b""
    for begin, end, (marker,) in _bounded(jpeg_segments(content)):
        if marker != _COM and not _APP0 <= marker <= _APP15:
            continue
        data = content[begin + 4 : end]
        name, least = _DECIDES_COLOURS.get(marker, (b"", 2**16))
        if not (data.startswith(name) and len(data) >= least):
            left_out.append((begin, end))
        exif = exif or (data if data.startswith(_EXIF) else b"")
        xmp = xmp or (data if data.startswith(_XMP) else b"")
    return _without(content, left_out), _orientation(exif, xmp)


# --- GIF --------------------------------------------------------------------------------------------------------------

_EXTENSION, _GRAPHIC_CONTROL = 0x21, 0xF9


def gif_palette(flags: int) -> int:
    """Bytes of the palette that the flags of a screen or a frame tell of."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def end_of_blocks(content: bytes, at: int) -> int:
    """Where a GIF's data ends that begins at `at`: blocks that tell their lengths, up to an empty one."""
    while at < len(content) and content[at]:
        at += 1 + content[at]
    return at + 1


def gif_extensions(content: bytes) -> Iterator[Part]:
    """The extensions of a GIF before its first frame; kind: its second byte. The last may be cut short."""
    at = 13 + gif_palette(content[10]) if len(content) > 10 else len(content)
    while at + 1 < len(content) and content[at] == _EXTENSION:
        end = end_of_blocks(content, at + 2)
        yield at, end, content[at + 1 : at + 2]
        at = end


def _gif(content: bytes) -> tuple[bytes, int]:
    """Leave out comments and the like before the first frame. Of a GIF no orientation is known."""
    left_out: list[tuple[int, int]] = []
    for begin, end, (kind,) in _bounded(gif_extensions(content)):
        if kind != _GRAPHIC_CONTROL and end <= len(content):
            left_out.append((begin, end))
    return _without(content, left_out), 1


# --- WebP -------------------------------------------------------------------------------------------------------------

_WEBP_PIXELS = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF"}


def webp_chunks(content: bytes) -> Iterator[Part]:
    """The chunks of a WebP file, each with its name, length and padding; the last may be cut short."""
    at = 12
    while at + 8 <= len(content):
        name, length = struct.unpack_from("<4sI", content, at)
        end = at + 8 + length + length % 2
        yield at, end, name
        at = end


def _webp(content: bytes) -> tuple[bytes, int]:
    """Leave out profile, EXIF, XMP and what is unknown, and correct the length that stands in front."""
    left_out, found, end, padded = [], {b"EXIF": b"", b"XMP ": b""}, 0, False
    for begin, end, name in _bounded(webp_chunks(content)):
        if name not in _WEBP_PIXELS:
            left_out.append((begin, end))
            if name in found:
                found[name] = found[name] or content[begin + 8 : end]
        padded = content[begin + 4] % 2 == 1
    if padded and end == len(content) + 1:  # the last chunk is whole but for its padding
        content += b"\0"
    if left_out:
        content = _without(content, left_out)
        content = content[:4] + struct.pack("<I", len(content) - 8) + content[8:]
    return content, _orientation(found[b"EXIF"], found[b"XMP "])


_WALKS = {"PNG": _png, "JPEG": _jpeg, "GIF": _gif, "WEBP": _webp}
