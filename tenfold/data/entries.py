"""Results of reading a folder's files: which are bad, and whether too many are."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tenfold.console import log_info, plural
from tenfold.data.dataset import SKIP_BAD
from tenfold.data.listing import Issue, Listing
from tenfold.data.modes import FULL_DEPTH, LEAST_DEPTH
from tenfold.errors import UsageError

EMPTY_CLASS = "empty class"
_MOST_NAMED = 10


@dataclass(frozen=True)
class Entry:
    """Result of reading a `File`: an image format and the SHA-256 of its bytes, or why it is no image.

    kind: the format its content has, if any. bad: whether its name promises an image. bits: how many its largest
    16-bit value takes, 0 where it has none. frames: or pages, of which the first is read.
    """

    sha256: str = ""
    kind: str | None = None
    reason: str = ""
    bad: bool = False
    bits: int = 0
    frames: int = 1


def own_bit_depth(entries: Iterable[Entry]) -> int:
    """How many bits the 16-bit images use together, at least 8; 16 where there is none such."""
    return max((max(LEAST_DEPTH, entry.bits) for entry in entries if entry.bits), default=FULL_DEPTH)


def most_bad(skip_bad: str, images: int) -> int:
    """How many of `images` may be bad by `skip_bad`: a number, `N%` of them (one at least, if N is not 0), or `all`.

    Raises `UsageError` for anything else.
    """
    text = skip_bad.strip().casefold()
    if text == "all":
        return images
    if re.fullmatch(r"\d{1,9}", text):
        return int(text)
    found = re.fullmatch(r"(\d{1,3}(?:\.\d{1,6})?)\s?%", text)
    if not found or float(found[1]) > 100:
        raise UsageError(f"--skip-bad is {skip_bad!r}: write a number of images, a share of them as 5%, or all")
    return max(1, int(float(found[1]) * images / 100 + 1e-9)) if float(found[1]) else 0


def examine_entries(listing: Listing, entries: Sequence[Entry], skip_bad: str = SKIP_BAD) -> list[Issue]:
    """Findings of reading the files: bad ones, those that are no images, classes without any image."""
    return [
        *_examine_bad(listing, entries, skip_bad),
        *(
            Issue("no image", "warning", f"{file.name} is no image", "left out", (file.name,))
            for file, entry in zip(listing.files, entries, strict=True)
            if entry.reason and not entry.bad
        ),
        *_empty_classes(listing, entries),
    ]


def _examine_bad(listing: Listing, entries: Sequence[Entry], skip_bad: str) -> list[Issue]:
    bad = [row for row, entry in enumerate(entries) if entry.bad]
    reasons = {listing.files[row].name: entries[row].reason for row in bad}
    found = [
        Issue("bad image", "skipped", f"{name}: {reason}", "mend or remove it", (name,))
        for name, reason in reasons.items()
    ]
    images = len(bad) + sum(not entry.reason for entry in entries)
    if len(bad) <= (most := most_bad(skip_bad, images)):
        return found
    what = f"{len(bad):,} of {plural(images, 'image')} cannot be read, and --skip-bad {skip_bad} allows {most:,}"
    named = "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:5])
    more = "; …" if len(bad) > 5 else ""
    do = "mend or remove them, or skip more: --skip-bad NUMBER, 10% or all"
    return [Issue("too many bad images", "error", f"{what} ({named}{more})", do), *found]


def _empty_classes(listing: Listing, entries: Sequence[Entry]) -> list[Issue]:
    files = [file for file, entry in zip(listing.files, entries, strict=True) if not entry.reason]
    trained = {file.label for file in files if file.split in ("", "train")}
    what = "no training image of class {} can be read" if listing.labels else "the class folder {} holds no image"
    return [
        Issue(EMPTY_CLASS, "error", what.format(name), "add images to it, or remove it", (name,))
        for label, name in enumerate(listing.classes)
        if label not in trained
    ]


def log_skipped(issues: Sequence[Issue]) -> None:
    """Name the first files that are skipped, and say how many more there are."""
    skipped = [issue for issue in issues if issue.severity == "skipped"]
    for issue in skipped[:_MOST_NAMED]:
        log_info(f"skipped {issue.what}")
    if len(skipped) > _MOST_NAMED:
        log_info(f"skipped {len(skipped) - _MOST_NAMED:,} more: tenfold data check lists all that cannot be read")
