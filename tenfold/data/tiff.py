"""What the directories of a TIFF tell: how many pages there are, and why a kind of it is not read."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

Tags = dict[int, tuple[int, ...]]
MOST_PAGES = 1_000
"""Pages that are counted."""
BITS, COMPRESSION, COLOURS, BANDS, EXTRA, FORMAT = 258, 259, 262, 277, 338, 339
_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}
_MOST_TAGS = 2**12  # of a page that are looked at
_MOST_VALUES = 16  # of a tag: as many as bands are named
_NAMES = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr"}
_NAMES |= {8: "LAB", 9: "LAB", 10: "LAB", 32803: "raw camera", 34892: "raw camera"}
_USUAL_BANDS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}
_FORMATS = {1: "", 2: "signed ", 3: "floating-point ", 4: "", 5: "complex ", 6: "complex "}
_COMPRESSIONS = {1, 2, 3, 4, 5, 6, 7, 8, 32771, 32773, 32946, 34925, 50000, 50001}


@dataclass(frozen=True)
class _Layout:
    """How a file's numbers are stored: of plain TIFF, or of BigTIFF."""

    order: str
    offset: str
    count: str
    entry: int

    def read(self, kind: str, content: bytes, at: int) -> int:
        return int(struct.unpack_from(self.order + kind, content, at)[0])


def first_page(content: bytes) -> Tags:
    """The whole-number tags of the first page; {} where it is damaged."""
    layout = _layout(content)
    try:
        for first, count in _directories(content):
            return dict(_tags(content, layout, first, min(count, _MOST_TAGS)))
    except (struct.error, OverflowError):  # beyond the file, or beyond what an offset can be
        pass
    return {}


def count_pages(content: bytes) -> int:
    """How many pages there are, at most `MOST_PAGES`; what is damaged or a loop ends them. No tag is looked at."""
    return sum(1 for _ in _directories(content))


def _layout(content: bytes) -> _Layout:
    order, big = ("<" if content[:2] == b"II" else ">"), b"+" in content[2:4]
    return _Layout(order, *(("Q", "Q", 20) if big else ("I", "H", 12)))


def _directories(content: bytes) -> Iterator[tuple[int, int]]:
    """Where the first tag of each page is, and how many tags it has; what is damaged ends them, as does a loop."""
    layout = _layout(content)
    seen: set[int] = set()
    try:
        at = layout.read(layout.offset, content, 8 if layout.entry == 20 else 4)
        while at and at not in seen and len(seen) < MOST_PAGES:
            seen.add(at)
            count = layout.read(layout.count, content, at)
            first = at + struct.calcsize(f"={layout.count}")
            if first + count * layout.entry > len(content):
                return
            yield first, count
            at = layout.read(layout.offset, content, first + count * layout.entry)
    except (struct.error, OverflowError):  # beyond the file, or beyond what an offset can be
        return


def _tags(content: bytes, layout: _Layout, first: int, count: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    for at in range(first, first + count * layout.entry, layout.entry):
        tag, kind = struct.unpack_from(f"{layout.order}HH", content, at)
        number = min(layout.read(layout.offset, content, at + 4), _MOST_VALUES)
        if tag in (BITS, COMPRESSION, COLOURS, BANDS, EXTRA, FORMAT) and kind in _TYPES:
            values = f"{layout.order}{number}{_TYPES[kind]}"
            where = at + 4 + struct.calcsize(f"={layout.offset}")
            if struct.calcsize(values) > struct.calcsize(f"={layout.offset}"):
                where = layout.read(layout.offset, content, where)
            yield tag, struct.unpack_from(values, content, where)


def first_value(tags: Tags, tag: int, otherwise: int) -> int:
    """The first value of a tag, or what the standard says it is where it is missing."""
    return (tags.get(tag) or (otherwise,))[0]


def unusual(content: bytes) -> str | None:
    """What kind of TIFF is not read, as a phrase; None where it is of a usual kind."""
    tags = first_page(content)
    if not tags:
        return None
    colours, bands = first_value(tags, COLOURS, 0), first_value(tags, BANDS, 1)
    bits, form = first_value(tags, BITS, 1), first_value(tags, FORMAT, 1)
    compression = first_value(tags, COMPRESSION, 1)
    name = _FORMATS.get(form, "") + _NAMES.get(colours, f"unknown (photometric {colours})")
    depth = f"{bands} bands of {bits} bits" if bands > 1 else f"{bits} bits"
    if compression not in _COMPRESSIONS:
        return f"a TIFF compressed by method {compression}"
    if (
        form in (1, 4)
        and bands == _USUAL_BANDS.get(colours)
        and bits in ((8, 16) if bands > 1 else (1, 2, 4, 8, 12, 16))
    ):
        return None
    return f"a TIFF of {name} pixels ({depth})"


def is_signed(content: bytes) -> bool:
    """Whether the values of the first page are below zero, too, which Pillow does not heed for 8 bits."""
    return first_value(first_page(content), FORMAT, 1) == 2
