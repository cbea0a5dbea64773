"""Where pixels come from: data sets by name, each a `Dataset` (see `dataset.py`)."""

from pathlib import Path

from tenfold.data.cache import Cached, get_cifar10, load_cifar10, remove_cifar10
from tenfold.data.dataset import Dataset, Split
from tenfold.data.shapes import make_shapes
from tenfold.errors import DataError, UsageError

__all__ = ["NAMES", "Cached", "Dataset", "Split", "get", "load", "remove"]

NAMES = ("cifar10", "shapes")


def load(name: str) -> Dataset:
    """The data set of that name; CIFAR-10 is fetched first, and this is said, when it is not in the cache.

    Raises `UsageError` for a name that is none, `DataError` when the data cannot be had, `StorageError`.
    """
    _check_name(name)
    if name == "shapes":
        return make_shapes()
    try:
        return load_cifar10()
    except DataError:
        get_cifar10()  # says why and from where
        return load_cifar10()


def get(name: str = "cifar10", from_path: Path | None = None) -> Cached:
    """Have a data set in the cache, from `from_path` when it is given. Raises as `load` does."""
    _check_fetched(name)
    return get_cifar10(from_path)


def remove(name: str = "cifar10") -> Path | None:
    """Delete a data set from the cache; the folder that went, or None when there was none."""
    _check_fetched(name)
    return remove_cifar10()


def _check_name(name: str) -> None:
    if name not in NAMES:
        if Path(name).is_dir():
            raise UsageError(f"{name} is a folder, which cannot be trained on yet; known are {', '.join(NAMES)}")
        raise UsageError(f"no data set is named {name!r}; known are {', '.join(NAMES)}")


def _check_fetched(name: str) -> None:
    _check_name(name)
    if name == "shapes":
        raise UsageError("'shapes' is drawn anew whenever it is needed; there is nothing to get or to remove")
