"""What the markers of a JPEG tell: whether all of its scans are there, and why a kind of it is not read."""

import random
import struct
from collections.abc import Iterator

from tenfold.data.metadata import jpeg_segments

_SOS, _RST0, _EOI = 0xDA, 0xD0, b"\xff\xd9"
_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_DCT = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}  # frames whose scans have coefficients 0 to 63
_PADDED = 8  # zeros at the end of a file, from which on they are no data


def has_end(content: bytes) -> bool:
    """Whether an end marker follows the first scan's beginning: in its data there can be none.

    Pillow takes zeros instead of it, as they stand in a file whose download was broken off, for more data.
    """
    return content.rfind(_EOI) >= next((end for _, end, (marker,) in jpeg_segments(content) if marker == _SOS), 0)


def endings(content: bytes) -> list[bytes]:
    """Ways to end a JPEG that has no end marker: where all its scans are there, they all give the same pixels.

    A decoder that is given only the marker fills missing rows with grey. The others put random data before it, which
    a scan that is complete skips, and one that is not takes for its own. Without a whole set of scans there is none.
    """
    if content.endswith(bytes(_PADDED)):
        content = content.rstrip(b"\0")
    body = content.removesuffix(b"\xff")
    scans = list(_scans(body))
    if not scans or not _complete(body, scans):
        return []
    data = body[scans[-1][0] :]
    restart = max((data.rfind(bytes([0xFF, marker])), marker) for marker in range(_RST0, _RST0 + 8))
    following = _RST0 if restart[0] < 0 else _RST0 + (restart[1] - _RST0 + 1) % 8
    more = [_noise(seed) + bytes([0xFF, following]) + _noise(seed) for seed in range(3)]
    return [body + tail + _EOI for tail in (b"", *more)]


def _noise(seed: int) -> bytes:
    """Bytes without a marker; seed 0: alternating bits."""
    return b"\x55" * 64 if seed == 0 else bytes(random.Random(seed).choices(range(255), k=64))


def _scans(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Where the data of each scan begins, and the segment that tells what is in it, without marker and length."""
    at = next((end for _, end, (marker,) in jpeg_segments(content) if marker == _SOS), None)
    first = next((begin for begin, _, (marker,) in jpeg_segments(content) if marker == _SOS), 0)
    while at is not None:
        yield at, content[first + 4 : at]
        first = content.find(bytes([0xFF, _SOS]), at)  # in data 0xFF is followed by 0 or a restart marker
        length = int.from_bytes(content[first + 2 : first + 4]) if first >= 0 else 0
        at = first + 2 + length if 2 <= length <= len(content) - first - 2 else None


def _complete(content: bytes, scans: list[tuple[int, bytes]]) -> bool:
    """Whether the scans bring every coefficient of every component to its last bit, as their headers tell."""
    frame = next(((m, content[b + 4 : e]) for b, e, (m,) in jpeg_segments(content) if m in _FRAMES), None)
    if frame is None or frame[0] not in _DCT or len(frame[1]) < 6:
        return False
    whole: dict[int, set[int]] = {frame[1][6 + 3 * number]: set() for number in range(frame[1][5])}
    for _, header in scans:
        count = header[0]
        first, last, bits = struct.unpack_from("BBB", header, 1 + 2 * count)
        for component in header[1 : 1 + 2 * count : 2]:
            if component in whole and bits & 15 == 0:
                whole[component] |= set(range(first, last + 1))
    return all(done >= set(range(64)) for done in whole.values())


def unusual(content: bytes) -> str | None:
    """What kind of JPEG is not read, as a phrase; None where it is of a usual kind."""
    for begin, end, (marker,) in jpeg_segments(content):
        if marker in _FRAMES and end - begin >= 10:
            bits, components = content[begin + 4], content[begin + 9]
            if bits != 8:
                return f"a JPEG with {bits} bits a value"
            if components not in (1, 3, 4):
                return f"a JPEG with {components} components"
            return None if marker in _DCT | {0xC3} else "a hierarchical or lossless JPEG"
    return None
