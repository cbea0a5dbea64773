"""Formats of images by their first bytes; needs no Pillow."""

_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"II+\x00": "TIFF",
    b"MM\x00+": "TIFF",
}
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
"""Their sizes, by version: the two letters before would make an image of any text that begins with them."""


def sniff(content: bytes) -> str | None:
    """Tell a format by the first 18 bytes: PNG, JPEG, GIF, BMP, TIFF, WEBP, or None for anything else."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    if content[:2] == b"BM" and int.from_bytes(content[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    return next((kind for signature, kind in _SIGNATURES.items() if content.startswith(signature)), None)
