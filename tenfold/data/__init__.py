"""Where pixels come from: data sets by name, each a `Dataset` (see `dataset.py`)."""

import os
from pathlib import Path

from tenfold.console import log_info
from tenfold.data.cache import Cached, get_cifar10, load_cifar10, remove_cifar10
from tenfold.data.dataset import SKIP_BAD, Dataset, Origin, Split
from tenfold.data.shapes import make_shapes
from tenfold.errors import DataError, UsageError, did_you_mean

__all__ = [
    "NAMES",
    "Cached",
    "Dataset",
    "Origin",
    "Split",
    "get",
    "is_cached",
    "is_folder",
    "load",
    "load_named",
    "remove",
]

NAMES = ("cifar10", "shapes")


def load(
    name: str,
    *,
    size: int = 32,
    resize: str = "squash",
    seed: int = 0,
    bit_depth: int | None = None,
    skip_bad: str = SKIP_BAD,
) -> Dataset:
    """The data set of that name, or the folder of images at that path, one subfolder a class.

    CIFAR-10 is fetched first, and this is said, when it is not in the cache. A folder's images are brought to
    `size`×`size` pixels (`resize`: see `image.resize_pixels`), and `seed` draws its test images where it has none.
    bit_depth: how many bits of its 16-bit values are used; by default that is measured. skip_bad: how many files may be
    unreadable: a number, `5%` or `all` (see `entries.most_bad`).
    Raises `UsageError` for a name that is none, `DataError` when the data cannot be had, `StorageError`.
    """
    if is_folder(name):
        from tenfold.data.check import say_findings  # here, because it brings Pillow
        from tenfold.data.folder import make_dataset, read_folder

        pictures = read_folder(Path(name), size, resize, bit_depth=bit_depth, skip_bad=skip_bad)
        say_findings(pictures)
        return make_dataset(pictures, seed)
    _check_name(name)
    _mention_folder(name)
    if (size, resize) != (32, "squash"):
        raise UsageError(f"the images of {name} are 32 pixels wide: only those of a folder are resized")
    if skip_bad != SKIP_BAD:
        raise UsageError(f"{name} has no bad files: --skip-bad is about a folder of images, leave it out")
    return load_named(name)


def load_named(name: str) -> Dataset:
    """The built-in data set of that name, one of `NAMES`; else as `load`."""
    if name == "shapes":
        return make_shapes()
    try:
        return load_cifar10()
    except DataError:
        get_cifar10()  # says why and from where
        return load_cifar10()


def is_cached(name: str) -> bool:
    """Whether `load` has the data set of that name without the network: it is drawn, or sound in the cache."""
    if name != "cifar10":
        return name == "shapes"
    try:
        load_cifar10()
    except (DataError, OSError):  # a cache that cannot be read is as good as none
        return False
    return True


def is_folder(name: str) -> bool:
    """Whether `name` means a folder: no data set is called so, and there is one, or it is written as a path."""
    return name not in ("", *NAMES) and (Path(name).is_dir() or "/" in name or os.sep in name)


def get(name: str = "cifar10", from_path: Path | None = None) -> Cached:
    """Have a data set in the cache, from `from_path` when it is given. Raises as `load` does."""
    _check_fetched(name)
    return get_cifar10(from_path)


def remove(name: str = "cifar10") -> Path | None:
    """Delete a data set, or what was kept of a folder, from the cache; what went, or None when there was nothing."""
    if is_folder(name):
        from tenfold.data.image_cache import forget_folder

        return forget_folder(Path(name))
    _mention_folder(name)
    _check_fetched(name)
    return remove_cifar10()


def _mention_folder(name: str) -> None:
    """Say what is meant where a folder has the name of a built-in data set."""
    if Path(name).is_dir():
        log_info(f"{name} is the built-in data set; for the folder {name} that is here, write ./{name}")


def _check_name(name: str) -> None:
    if name not in NAMES:
        known = f"{', '.join(NAMES)}, or a folder of images{did_you_mean(name, NAMES)}"
        raise UsageError(f"no data set is named {name!r}; known are {known}")


def _check_fetched(name: str) -> None:
    _check_name(name)
    if name == "shapes":
        raise UsageError("'shapes' is generated whenever it is needed; there is nothing to download or to delete")
