"""Content codings (RFC 9110, 8.4): compressed bodies of requests and responses, within limits."""

import re
import zlib

from tenfold.serving.serve.refusal import RefusalError

SMALLEST = 1024
"""Bytes of a response from which on it is compressed: shorter ones fit one packet anyway."""
_GZIP, _ZLIB, _RAW = 31, 15, -15  # zlib's `wbits`
_DECODED = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}
_ENCODED = {"gzip": _GZIP, "deflate": _ZLIB}
_PIECE = 2**16
_MOST_MEMBERS = 1_000
"""Parts of one gzip body. Tools that compress in parallel write one for each 64 kB or more."""
_WEIGHT = re.compile(r"\s*q\s*=\s*([01](\.[0-9]{0,3})?)\s*", re.IGNORECASE)


def coding_of(header: str) -> str | None:
    """The coding that a Content-Encoding header names; None: the body is sent as it is. Raises `RefusalError` (415)."""
    codings = [name for part in header.split(",") if (name := part.strip().lower()) not in ("", "identity")]
    if not codings:
        return None
    if len(codings) > 1 or codings[0] not in _DECODED:
        known = {"Accept-Encoding": ", ".join(_ENCODED)}
        raise RefusalError(415, "Content-Encoding must be gzip or deflate, once, or left out", known)
    return codings[0]


def decompress(content: bytes, coding: str, most: int) -> bytes:
    """The body behind a coding. Never holds more than `most` bytes of it.

    Raises `RefusalError`: 413 where it is larger, 400 where it is damaged.
    """
    bits = _RAW if _DECODED[coding] == _ZLIB and not _has_zlib_head(content) else _DECODED[coding]
    engine, members, decompressed = zlib.decompressobj(bits), 1, bytearray()
    try:
        for start in range(0, len(content), _PIECE):
            piece = content[start : start + _PIECE]
            while piece:
                if engine.eof:
                    piece = piece.lstrip(b"\0") if bits == _GZIP else piece  # padding, which gzip(1) ignores, too
                    if not piece:
                        break
                    if bits != _GZIP:  # only gzip has members (RFC 1952, 2.2)
                        raise zlib.error("bytes after the end")
                    engine, members = zlib.decompressobj(bits), members + 1
                decompressed += engine.decompress(piece, most + 1 - len(decompressed))
                if len(decompressed) > most or members > _MOST_MEMBERS:
                    raise RefusalError(413, f"the body is larger than {most:,} bytes when it is decompressed")
                piece = engine.unused_data
    except zlib.error as error:
        raise RefusalError(400, f"the body is not sound {coding}") from error
    if not engine.eof:
        raise RefusalError(400, f"the body is not sound {coding}, or cut short")
    return bytes(decompressed)


def _has_zlib_head(content: bytes) -> bool:
    """Whether "deflate" means what the standard says (RFC 1950), and not bare deflate, as some clients send it."""
    return len(content) >= 2 and content[0] & 15 == 8 and int.from_bytes(content[:2], "big") % 31 == 0


def best_coding(header: str) -> str | None:
    """The coding of a response for an Accept-Encoding header; None: as it is."""
    weights = {}
    for part in header.split(","):
        name, _, parameter = part.partition(";")
        weights[name.strip().lower()] = _weight(parameter)
    best = max(_ENCODED, key=lambda name: weights.get(name, weights.get("*", 0)))  # the first one of equals
    weight = weights.get(best, weights.get("*", 0))
    return best if weight > 0 and weight >= weights.get("identity", 0) else None


def _weight(parameter: str) -> float:
    """How much a coding is wanted, 0: not at all."""
    if not parameter.strip():
        return 1
    given = _WEIGHT.fullmatch(parameter)
    return float(given[1]) if given else 0


def compress(content: bytes, coding: str) -> bytes:
    """Fast rather than small: responses are numbers."""
    engine = zlib.compressobj(level=1, wbits=_ENCODED[coding])
    return engine.compress(content) + engine.flush()
