"""A folder of images as a data set: one subfolder a class, below `train/`, `val/` and `test/` where those are there.

Legend: K classes.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tenfold.console import log_info, plural
from tenfold.data.dataset import SKIP_BAD, Dataset, Origin, Split
from tenfold.data.entries import EMPTY_CLASS, examine_entries, log_skipped, most_bad
from tenfold.data.groups import draw_groups, unite
from tenfold.data.image_cache import ImageFolder, read_images
from tenfold.data.label_file import list_labels
from tenfold.data.listing import Issue, LabelFile, Listing, list_folder, shown_name
from tenfold.data.resize import RESIZES, current_resize
from tenfold.data.stored import rows_of
from tenfold.errors import DataError, UsageError, did_you_mean

TEST_SHARE = 0.2
"""Of each class, drawn for testing where the folder has no test images of its own."""
IMBALANCE = 5
"""A largest class so many times the smallest is worth a word."""


def load_folder(
    root: Path,
    size: int = 32,
    resize: str = "stretch",
    seed: int = 0,
    *,
    bit_depth: int | None = None,
    skip_bad: str = SKIP_BAD,
    classes: Sequence[str] = (),
    labels: LabelFile | None = None,
) -> Dataset:
    """Read a folder of images as a data set of `size`×`size` pixels: `read_folder`, then `make_dataset`."""
    folder = read_folder(root, size, resize, bit_depth=bit_depth, skip_bad=skip_bad, classes=classes, labels=labels)
    return make_dataset(folder, seed)


def read_folder(
    root: Path,
    size: int,
    resize: str,
    *,
    bit_depth: int | None = None,
    skip_bad: str = SKIP_BAD,
    classes: Sequence[str] = (),
    labels: LabelFile | None = None,
    listing: Listing | None = None,
) -> ImageFolder:
    """List and decode a folder, and say what is skipped, and how 16-bit values are scaled where not as a whole.

    skip_bad: how many files may be unreadable, as `entries.most_bad` takes it. classes: those of a model that is there
    already, so that images of one class are enough, and a class may be empty; see `list_folder`. labels: the file that
    names the images and their classes, where folders do not. listing: what `list_images` gave, if that is known.

    bit_depth: as in `read_images`. Raises `DataError` for what `tenfold data check` calls an error, `UsageError`,
    `StorageError`.
    """
    resize = current_resize(resize)
    if resize not in RESIZES:
        raise UsageError(
            f"no resize mode is named {resize!r}: choose {', '.join(RESIZES)}{did_you_mean(resize, RESIZES)}"
        )
    most_bad(skip_bad, 0)  # a wrong one is said before anything is read
    listing = listing or list_images(root, labels, classes)
    _refuse(listing.issues)
    folder = replace(read_images(listing, size, resize, bit_depth), skip_bad=skip_bad)
    issues = examine_entries(listing, folder.entries, skip_bad)
    _refuse(issue for issue in issues if not (classes and issue.kind == EMPTY_CLASS))
    if not folder.good():
        raise DataError(f"{listing} {'names' if labels else 'holds'} no image that can be read")
    log_skipped(issues)
    _log_bit_depth(folder)
    return folder


def list_images(root: Path, labels: LabelFile | None, classes: Sequence[str] = ()) -> Listing:
    """What a label file says of the images below `root`, or else the folders that they lie in. Raises as these do."""
    return list_labels(root, labels, classes) if labels else list_folder(root, classes)


def _log_bit_depth(folder: ImageFolder) -> None:
    used, own = folder.bit_depth, folder.own_bit_depth
    deep = sum(1 for entry in folder.entries if entry.bits)
    if deep and used < 16:
        images = plural(deep, "image")
        log_info(f"{images} with 16-bit values: 0 to {2**used - 1:,} ({used} bits) are scaled to 0 to 255")
    if deep and own > used:
        log_info(f"they go up to {2**own - 1:,} ({own} bits): what is beyond is white, as for the model")


def log_left_out(folder: ImageFolder) -> None:
    """Name the folders that were left out: they hold no class of a model, or tenfold's output."""
    for issue in folder.listing.issues:
        if issue.kind in ("stray folder", "own output"):
            log_info(f"{issue}")


def make_dataset(folder: ImageFolder, seed: int, test_share: float = TEST_SHARE) -> Dataset:
    """Divide a folder's images.

    Without `test/`, what `val/` holds is scored on; without both, `test_share` of each class, drawn by `seed`. Drawing
    goes by content, so that the copies of an image in a class stay together and a file added moves one other at most.
    `val/` beside `test/` is the end of the training images, `Dataset.val_size` of them. Raises `DataError` where no
    test image is left.
    """
    listing, splits = folder.listing, assign_splits(folder, seed, test_share)
    _log_counts(folder, splits)
    train = _split(folder, [*splits["train"], *splits["val"]])
    origin = Origin(
        path=str(listing.root.resolve()),
        sha256=folder.sha256,
        size=folder.images.shape[1],
        resize=folder.resize,
        bit_depth=folder.bit_depth,
        skip_bad=folder.skip_bad,
        skipped=folder.skipped,
        labels=str(listing.labels.path.resolve()) if listing.labels else "",
        labels_sha256=listing.labels_sha256,
        label_columns=listing.labels.columns if listing.labels else "",
    )
    test = _split(folder, splits["test"])
    return Dataset(folder_name(listing.root), listing.classes, train, test, len(splits["val"]), origin)


def folder_name(root: Path) -> str:
    """What a folder's data set is called: no path, since it goes into files that are passed on."""
    return shown_name(root.resolve().name) + "/"


def _refuse(issues: Iterable[Issue]) -> None:
    errors = [issue for issue in issues if issue.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more: tenfold data check lists them)" if len(errors) > 1 else ""
        raise DataError(f"{errors[0]}{more}")


def assign_splits(folder: ImageFolder, seed: int, test_share: float) -> dict[str, list[int]]:
    """Rows of the train, val and test images, in an order that mixes the classes and depends on content only."""
    files = folder.listing.files
    rows = sorted(folder.good(), key=lambda row: _order(f"{folder.entries[row].sha256}/{files[row].name}"))
    splits: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for row in rows:
        splits[files[row].split or "train"].append(row)
    if not splits["test"]:
        splits["test"], splits["val"] = splits["val"], []
    if not splits["test"]:
        drawn = _draw_test(folder, splits["train"], seed, test_share)
        splits["train"], splits["test"] = (
            [r for r in splits["train"] if r not in drawn],
            [r for r in rows if r in drawn],
        )
    if not splits["test"]:
        different = "images in two groups" if _has_groups(folder) else "two different images"
        raise DataError(f"{folder.listing}: no class has {different}, so none is left to test on")
    return splits


def _order(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _has_groups(folder: ImageFolder) -> bool:
    return any(file.group for file in folder.listing.files)


def _draw_test(folder: ImageFolder, rows: Sequence[int], seed: int, share: float) -> set[int]:
    """Draw a share of each class's images; of bytes that occur more than once, and of a group, all or none."""
    if _has_groups(folder) and share < 1:
        return _draw_groups(folder, rows, seed, share)
    by_class: dict[int, list[tuple[bytes, int]]] = {}
    for row in rows:
        key = _order(f"{seed}/{folder.entries[row].sha256}")
        by_class.setdefault(folder.listing.files[row].label, []).append((key, row))
    drawn: set[int] = set()
    for keyed in by_class.values():
        last = sorted(keyed)[max(1, round(share * len(keyed))) - 1][0]
        chosen = {row for key, row in keyed if key <= last}
        drawn |= chosen if len(chosen) < len(keyed) or share == 1 else set()  # a class needs an image to train on
    return drawn


def _draw_groups(folder: ImageFolder, rows: Sequence[int], seed: int, share: float) -> set[int]:
    files, contents = [folder.listing.files[row] for row in rows], [folder.entries[row].sha256 for row in rows]
    groups = unite((file.group for file in files), contents)
    names = [file.group or content for file, content in zip(files, contents, strict=True)]
    labels = np.array([file.label for file in files])
    drawn = draw_groups(labels, groups, names, share, f"test/{seed}")
    missing = sorted({*labels.tolist()} - {*labels[drawn].tolist()})
    for label in missing:
        log_info(f"class {folder.listing.classes[label]} has no test image: its groups are too few or too large")
    return {row for row, chosen in zip(rows, drawn.tolist(), strict=True) if chosen}


def _split(folder: ImageFolder, rows: Sequence[int]) -> Split:
    files = [folder.listing.files[row] for row in rows]
    weights = np.array([file.weight for file in files])
    return Split(
        rows_of(folder.images, list(rows)),
        np.array([file.label for file in files], np.uint16),
        names=np.array([file.name for file in files], object),
        digests=np.array([folder.entries[row].sha256 for row in rows], object),
        groups=np.array([file.group for file in files], object) if _has_groups(folder) else None,
        weights=weights if any(file.weight != 1 for file in folder.listing.files) else None,
    )


def _log_counts(folder: ImageFolder, splits: dict[str, list[int]]) -> None:
    listing = folder.listing
    counts = Counter(listing.files[row].label for rows in splits.values() for row in rows)
    least, most = (choose(counts, key=lambda label: (counts[label], label)) for choose in (min, max))
    images = ", ".join(f"{len(rows):,} {split}" for split, rows in splits.items() if rows)
    ends = [f"{counts[label]:,} ({listing.classes[label]})" for label in (least, most)]
    a_class = f"from {ends[0]} to {ends[1]} a class" if counts[least] < counts[most] else f"{counts[most]:,} a class"
    log_info(f"{folder_name(listing.root)}: {plural(len(counts), 'class')}; {images} images, {a_class}")
    if counts[most] >= IMBALANCE * counts[least]:
        log_info("the classes are imbalanced: trust the scores by class more than the accuracy")
