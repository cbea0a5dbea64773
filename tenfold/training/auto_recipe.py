"""The recipe `auto`: `pretrained` for a folder of few or of large photos, else `fast89`; and why.

A folder's names and the headers of some of its images are read, no pixels.
"""

import importlib.util
import statistics
from dataclasses import dataclass, field, replace
from pathlib import Path

from tenfold import extras
from tenfold.console import log_info
from tenfold.data import is_folder
from tenfold.data.dataset import Dataset
from tenfold.data.listing import File, LabelFile, Listing
from tenfold.training.recipe import Recipe

AUTO = "auto"
FROM_SCRATCH, PRETRAINED = "fast89", "pretrained"
FEW = 10_000
"""Training images: with more small ones, training from scratch is as good and takes a fraction of the time."""
LARGE = 64
"""Pixels of the shorter side: larger images show what a network for 32 pixels never sees."""
_HEADERS = 50  # images whose size is read


@dataclass(frozen=True)
class Choice:
    """A recipe, and one line that says why it was chosen; None where nothing was left to choose.

    listing: of a folder that was looked at, so that it need not be listed again.
    """

    recipe: str | Path | Recipe
    reason: str | None = None
    listing: Listing | None = field(default=None, compare=False, repr=False)


def resolve_auto(
    recipe: str | Path | Recipe, data: object, size: int | None = None, labels: LabelFile | None = None
) -> Choice:
    """The recipe itself, or, for `auto`, the one that fits `data`: a data set's name, a folder, or a `Dataset`.

    size: pixels a side that the images are to be brought to, where the user says so. labels: the file that names the
    images in the folder. Raises `DataError` for a folder
    that cannot be read.
    """
    if recipe != AUTO:
        return Choice(recipe)
    if isinstance(data, Dataset):
        return Choice(PRETRAINED) if _is_large(data) and _is_installed() else Choice(FROM_SCRATCH)
    if not isinstance(data, str | Path) or not is_folder(str(data)):
        return Choice(FROM_SCRATCH)
    from tenfold.data.folder import list_images  # here, because it brings Pillow

    listing = list_images(Path(data), labels)
    return replace(_for_folder(listing.files, size), listing=listing)


def log_choice(choice: Choice) -> None:
    """Log why a recipe was chosen, if it was."""
    if choice.reason:
        log_info(choice.reason)


def _for_folder(files: list[File], size: int | None) -> Choice:
    if size is not None and size < LARGE:
        return _from_scratch(f"images of {size} pixels a side are too small for pretrained weights")
    train = [file for file in files if file.split in ("", "train")]
    shorter = _shorter_side(train)
    if len(train) > FEW and shorter <= LARGE:
        return _from_scratch(f"{len(train):,} images of {shorter} pixels are enough to train from scratch")
    why = f"{len(train):,} images are few" if len(train) <= FEW else f"images of {shorter:,} pixels are large"
    if _is_installed():
        return Choice(PRETRAINED, f"recipe {PRETRAINED}, since {why} (--recipe {FROM_SCRATCH} trains from scratch)")
    return Choice(
        FROM_SCRATCH,
        f"recipe {FROM_SCRATCH}, from scratch; {why}: with the extra '{PRETRAINED}' a network that knows photos is "
        "trained instead, which made a quarter of the mistakes with 32 photos a class",
    )


def _from_scratch(why: str) -> Choice:
    return Choice(FROM_SCRATCH, f"recipe {FROM_SCRATCH}: {why}")


def _is_large(data: Dataset) -> bool:
    return min(data.train.images.shape[1:3]) > LARGE


def _is_installed() -> bool:
    return all(importlib.util.find_spec(module) is not None for module in extras.PRETRAINED)


def _shorter_side(files: list[File]) -> int:
    """Median of the shorter sides of some images, in pixels; 0 where none can be read."""
    from tenfold.data.image import read_size

    step = max(1, len(files) // _HEADERS)
    sizes = [read_size(file.path) for file in files[::step]]
    sides = [min(size) for size in sizes if size]
    return round(statistics.median(sides)) if sides else 0
