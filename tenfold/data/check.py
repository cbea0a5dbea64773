"""What the owner of a folder of images should know before training on it. The folder is only read.

Legend: N images that can be read, 32×32 pixels each for this purpose.
"""

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tenfold.console import log_info, plural, progress
from tenfold.data.dataset import SKIP_BAD
from tenfold.data.entries import examine_entries, most_bad
from tenfold.data.folder import IMBALANCE, folder_name, list_images
from tenfold.data.ignored import SUFFIXES
from tenfold.data.image_cache import ImageFolder, read_images
from tenfold.data.listing import File, Issue, LabelFile
from tenfold.data.stored import Images, rows_of

FEW = 20
"""Images of a class; of fewer, little is learned and nothing is measured."""
FEWEST = 5
"""Images of a class; fewer are easily held out all together."""
ALIKE = 0.25
"""Two images are near duplicates where they differ by at most this share of their contrast (root mean square). Stored
again as JPEG of quality 75, an image of CIFAR-10 differs by 0.26 at the most nine times in ten; of its first 25,000
images four pairs are as near, and all four show the same scene."""
MOST_PAIRS = 10_000
_SEVERITIES = ("error", "skipped", "warning")
_SERIOUS = (
    "leak",
    "duplicates of two classes",
    "own output",
    "unlabelled split",
    "stray folder",
    "outside",
    "small class",
    "pages",
    "frames",
    "colliding names",
    "repeated",
    "unlisted",
)
_SAID = {"imbalance", "hidden folder"}  # the former by `make_dataset`; the latter is nothing to worry about
_CHUNK = 512


@dataclass(frozen=True)
class Checked:
    """Images by split ("" where the folder has none) and class, and all issues, the gravest first."""

    name: str
    counts: dict[str, dict[str, int]]
    issues: tuple[Issue, ...]

    @property
    def worst(self) -> str:
        """Severity of the gravest issue, "" where there is none."""
        return self.issues[0].severity if self.issues else ""

    def to_json(self) -> dict[str, Any]:
        """As `tenfold data check --json` says it."""
        issues = [vars(issue) | {"paths": list(issue.paths)} for issue in self.issues]
        return {"folder": self.name, "trainable": self.worst != "error", "counts": self.counts, "issues": issues}


def check_folder(root: Path, skip_bad: str = SKIP_BAD, labels: LabelFile | None = None) -> Checked:
    """Look for everything that would keep a folder from being trained on well, or the images of a label file.

    skip_bad: how many files may be unreadable, see `entries.most_bad`. Raises `UsageError`, `DataError`
    where `root` is no folder or `labels` no label file, `StorageError` where the cache cannot be written.
    """
    most_bad(skip_bad, 0)
    listing = list_images(root, labels)
    folder = read_images(listing, 32, "stretch")
    counts = _count(folder)
    issues = [
        *listing.issues,
        *examine_entries(listing, folder.entries, skip_bad),
        *_examine_endings(folder),
        *_examine_frames(folder),
        *_examine_depth(folder),
        *_examine_counts(counts),
        *_examine_copies(folder),
        *_examine_likenesses(folder),
    ]
    issues.sort(key=lambda issue: _SEVERITIES.index(issue.severity))  # stable: kinds stay together
    return Checked(folder_name(root), counts, tuple(issues))


def log_issues(folder: ImageFolder) -> None:
    """Say before training, in a line for each kind, what `tenfold data check` warns of, but for what takes it minutes.

    What is refused or skipped is not said again; what does no harm is only counted.
    """
    entries = examine_entries(folder.listing, folder.entries, folder.skip_bad)
    found = [*folder.listing.issues, *entries, *_examine_endings(folder), *_examine_frames(folder)]
    found += [*_examine_counts(_count(folder)), *_examine_copies(folder)]
    kinds: dict[str, list[Issue]] = {}
    for issue in found:
        if issue.severity == "warning" and issue.kind not in _SAID:
            kinds.setdefault(issue.kind, []).append(issue)
    for kind in _SERIOUS:
        if kind in kinds:
            first, *more = kinds.pop(kind)
            log_info(f"warning: {first}" + (f" (and {len(more):,} more like it)" if more else ""))
    rest = ", ".join(f"{kind} ({len(issues):,})" for kind, issues in kinds.items())
    if rest or any(issue.kind in _SERIOUS for issue in found):
        labels = folder.listing.labels
        options = ["--labels", str(labels.path)] if labels else []
        options += ["--label-columns", labels.columns] if labels and labels.columns else []
        command = shlex.join(["tenfold", "data", "check", str(folder.listing.root), *options])
        log_info(f"{command} lists all that is odd" + (f", also {rest}" if rest else ""))


def _count(folder: ImageFolder) -> dict[str, dict[str, int]]:
    files = [folder.listing.files[row] for row in folder.good()]
    counts = Counter((file.split, file.label) for file in files)
    splits = sorted({file.split for file in folder.listing.files}, key=["", "train", "val", "test"].index)
    return {
        split: {name: counts[split, label] for label, name in enumerate(folder.listing.classes)} for split in splits
    }


def _examine_endings(folder: ImageFolder) -> Iterator[Issue]:
    for row in folder.good():
        kind, file = folder.entries[row].kind, folder.listing.files[row]
        if kind and file.path.suffix.casefold() not in SUFFIXES[kind]:
            what = f"{file.name} is a {kind} file by its content"
            yield Issue("ending", "warning", what, "read all the same; rename it", (file.name,))


def _examine_frames(folder: ImageFolder) -> Iterator[Issue]:
    """Files of which only a part is used, all in one issue: a folder of animations has many."""
    for kinds, what in ((("TIFF",), "pages"), (("GIF", "PNG", "WEBP"), "frames")):
        rows = [r for r in folder.good() if folder.entries[r].frames > 1 and folder.entries[r].kind in kinds]
        names = tuple(folder.listing.files[row].name for row in rows)
        if names:
            many = f" (files with more than one: {len(names):,})" if len(names) > 1 else ""
            found = f"{names[0]} has {folder.entries[rows[0]].frames:,} {what}{many}"
            yield Issue(what, "warning", found, "only the first is read; split it if the others matter", names)


def _examine_depth(folder: ImageFolder) -> Iterator[Issue]:
    """16-bit images that use fewer bits, as those of most cameras and microscopes do."""
    rows = [row for row in folder.good() if folder.entries[row].bits]
    if rows and (bits := folder.own_bit_depth) < 16:
        names = tuple(folder.listing.files[row].name for row in rows)
        what = f"{plural(len(names), 'image')} with 16-bit values, of which 0 to {2**bits - 1:,} ({bits} bits) are used"
        yield Issue("value range", "warning", what, "this range is scaled to 0 to 255 in training", names)


def _examine_counts(by_split: dict[str, dict[str, int]]) -> Iterator[Issue]:
    for split, counts in by_split.items():
        if split not in ("", "train"):
            continue
        largest, smallest = (choose(counts, key=lambda name: counts[name], default="") for choose in (max, min))
        if counts and counts[largest] >= IMBALANCE * counts[smallest] > 0:
            what = f"{largest} has {plural(counts[largest], 'image')}, {smallest} only {counts[smallest]:,}"
            yield Issue("imbalance", "warning", what, "add some; trust the scores by class", (largest, smallest))
        for name, count in counts.items():
            if 0 < count < FEW:
                do = "add some" if count >= FEWEST else "add some; --val-size can leave none of them to train on"
                yield Issue("small class", "warning", f"{name} has only {plural(count, 'image')}", do, (name,))


def _examine_copies(folder: ImageFolder) -> Iterator[Issue]:
    """Files of the same bytes."""
    groups: dict[str, list[File]] = {}
    for row in folder.good():
        groups.setdefault(folder.entries[row].sha256, []).append(folder.listing.files[row])
    yield from (_about_copies(files, "", "the same image") for files in groups.values() if len(files) > 1)


def _examine_likenesses(folder: ImageFolder) -> Iterator[Issue]:
    """Images that look the same but are other bytes: resized, stored again, in another format."""
    rows = list({folder.entries[row].sha256: row for row in reversed(folder.good())}.values())[::-1]
    files = folder.listing.files
    for count, (first, second) in enumerate(find_alike(rows_of(folder.images, rows))):
        if count == MOST_PAIRS:
            what = f"more than {MOST_PAIRS:,} pairs of images look the same"
            yield Issue("near duplicates", "warning", what, "no more of them are listed")
            return
        yield _about_copies([files[rows[first]], files[rows[second]]], "near ", "nearly the same image")


def _about_copies(files: Sequence[File], near: str, same: str) -> Issue:
    """Say of images that are the same what that does: worst between splits, bad between classes."""
    names = tuple(file.name for file in files)
    what = f"{names[0]} is {same} as {names[1]}" + (f" and {len(names) - 2:,} more" if len(names) > 2 else "")
    if len({file.split for file in files}) > 1:
        return Issue(f"{near}leak", "warning", f"{what}, in another split", "keep it in one split only", names)
    if len({file.label for file in files}) > 1:
        return Issue(f"{near}duplicates of two classes", "warning", f"{what}", "decide which class it is", names)
    return Issue(f"{near}duplicates", "warning", what, "keep one of them", names)


def find_alike(images: Images) -> Iterator[tuple[int, int]]:
    """Find all pairs of uint8 N×32×32×3 whose difference is at most `ALIKE` of the contrast of the first.

    Means over 8×8 pixels differ by no more than the pixels themselves do (root mean square), so comparing them first
    misses no pair; all of them are compared, N² / 2 products of 48 numbers.
    """
    small = np.concatenate(
        [_means(images[at : at + _CHUNK]) for at in range(0, len(images), _CHUNK)] or [np.empty((0, 49))]
    )
    means, limits = small[:, :-1], ALIKE * small[:, -1]
    squares = (means**2).sum(axis=1)
    with progress("comparing images", len(images)) as bar:
        for at in range(0, len(images), _CHUNK):
            rows = slice(at, at + _CHUNK)
            distances = squares[rows, None] + squares[None, at:] - 2 * means[rows] @ means[at:].T
            close = distances <= means.shape[1] * limits[rows, None] ** 2 + 1e-2  # and what float32 rounds
            for first, second in np.argwhere(np.triu(close, 1)) + at:
                if _difference(images[first], images[second]) <= limits[first]:
                    yield int(first), int(second)
            bar(len(distances))


def _means(images: np.ndarray) -> np.ndarray:
    """float32 N×49: means of each channel over 8×8 pixels, less 128 so that rounding matters less; and the contrast."""
    blocks = images.reshape(len(images), 4, 8, 4, 8, 3).mean(axis=(2, 4), dtype=np.float32).reshape(len(images), -1)
    contrast = images.std(axis=(1, 2), dtype=np.float32).mean(axis=1)
    return np.column_stack([blocks - 128, contrast])


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a.astype(np.float32) - b) ** 2)))
