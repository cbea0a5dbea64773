"""Where pixels come from: data sets by name, each a `Dataset` (see `dataset.py`)."""

import os
from pathlib import Path
from typing import Any

from tenfold.console import log_info
from tenfold.data import cifar10, shapes  # noqa: F401  (they register themselves)
from tenfold.data.cache import Cached, delete_cached, ensure_cached, load_cached
from tenfold.data.dataset import SKIP_BAD, Dataset, Origin, Split
from tenfold.data.entry import DATASETS, DatasetEntry, register_dataset
from tenfold.data.listing import LabelFile
from tenfold.data.resize import current_resize
from tenfold.data.table import check_columns
from tenfold.errors import DataError, UsageError

__all__ = [
    "DATASETS",
    "Cached",
    "Dataset",
    "DatasetEntry",
    "LabelFile",
    "Origin",
    "Split",
    "as_label_file",
    "folder_of",
    "get",
    "is_cached",
    "is_folder",
    "load",
    "load_named",
    "register_dataset",
    "remove",
]


def load(
    name: str,
    *,
    size: int = 32,
    resize: str = "stretch",
    seed: int = 0,
    bit_depth: int | None = None,
    skip_bad: str = SKIP_BAD,
    labels: str | Path | LabelFile | None = None,
    label_columns: str = "",
) -> Dataset:
    """The data set of that name, or the folder of images at that path, one subfolder a class.

    One that is not in the cache is fetched first, and this is logged. A folder's images are brought to
    `size`×`size` pixels (`resize`: see `image.resize_pixels`), and `seed` draws its test images where it has none.
    bit_depth: how many bits of its 16-bit values are used; by default that is measured. skip_bad: how many files may be
    unreadable: a number, `5%` or `all` (see `entries.most_bad`). labels: a CSV or parquet file that names the images
    below the folder and their classes, with columns path, label and perhaps split, group, weight; label_columns: what
    these are called, as "path=file,label=species".
    Raises `UsageError` for a name that is none, `DataError` when the data cannot be had, `StorageError`.
    """
    label_file = as_label_file(labels, label_columns)
    if label_file or is_folder(name):
        root = Path(folder_of(label_file, name) if label_file else name)
        return load_images(
            root, seed, size=size, resize=resize, bit_depth=bit_depth, skip_bad=skip_bad, labels=label_file
        )
    width = _find(name).shape[1]
    _mention_folder(name)
    if (size, current_resize(resize)) not in ((32, "stretch"), (width, "stretch")):
        raise UsageError(f"the images of {name} are {width} pixels wide: only those of a folder are resized")
    if skip_bad != SKIP_BAD:
        raise UsageError(f"{name} has no bad files: --skip-bad is about a folder of images, leave it out")
    return load_named(name)


def load_images(root: Path, seed: int, **how: Any) -> Dataset:
    """As `load`, of a folder; how: the rest as for `folder.read_folder`, which takes a listing that is known, too."""
    from tenfold.data.check import log_issues  # here, because it brings Pillow
    from tenfold.data.folder import make_dataset, read_folder

    folder = read_folder(root, **how)
    log_issues(folder)
    return make_dataset(folder, seed)


def as_label_file(labels: str | Path | LabelFile | None, columns: str = "") -> LabelFile | None:
    """A label file and what its columns are called; None for none. Raises `UsageError` for columns without a file."""
    if labels is None:
        if columns:
            raise UsageError(f"--label-columns {columns} is about a label file: name it with --labels")
        return None
    if isinstance(labels, LabelFile):
        return labels
    check_columns(columns)
    return LabelFile(Path(labels), columns)


def folder_of(labels: LabelFile, data: str | None) -> str:
    """The folder that a label file's relative paths begin in, written as one: `data`, or else where the file lies.

    Raises `UsageError` where `data` is no folder.
    """
    folder = str(labels.path.absolute().parent) if data is None else data
    if data is not None and not Path(data).is_dir():
        raise UsageError(f"--labels {labels.path} names images in files: --data must be their folder, not {data}")
    return folder if folder.endswith(("/", os.sep)) else f"{folder}/"


def load_named(name: str) -> Dataset:
    """The registered data set of that name; raises as `load`."""
    entry = _find(name)
    if entry.make:
        return entry.make()
    try:
        return load_cached(entry)
    except DataError:
        ensure_cached(entry)  # says why and from where
        return load_cached(entry)


def is_cached(name: str) -> bool:
    """Whether `load` has the data set of that name without the network: it is generated, or sound in the cache."""
    if name not in DATASETS:
        return False
    entry = DATASETS.find(name)
    try:
        return bool(entry.make or load_cached(entry))
    except (DataError, OSError):  # a cache that cannot be read is as good as none
        return False


def is_folder(name: str) -> bool:
    """Whether `name` means a folder: no data set is called so, and there is one, or it is written as a path."""
    written_as_path = "/" in name or os.sep in name
    return written_as_path or (name != "" and Path(name).is_dir() and name not in DATASETS)


def get(name: str = "cifar10", from_path: Path | None = None) -> Cached:
    """Have a data set in the cache, from `from_path` when it is given. Raises as `load` does."""
    return ensure_cached(_find_kept(name), from_path)


def remove(name: str = "cifar10") -> Path | None:
    """Delete a data set, or what was kept of a folder, from the cache; what went, or None when there was nothing."""
    if is_folder(name):
        from tenfold.data.image_cache import forget_folder

        return forget_folder(Path(name))
    _mention_folder(name)
    return delete_cached(_find_kept(name))


def _mention_folder(name: str) -> None:
    """Say what is meant where a folder has the name of a built-in data set."""
    if Path(name).is_dir():
        log_info(f"{name} is the built-in data set; for the folder {name} that is here, write ./{name}")


def _find(name: str) -> DatasetEntry:
    if name not in DATASETS:
        raise UsageError(DATASETS.unknown(name, "or a folder of images"))
    return DATASETS.find(name)


def _find_kept(name: str) -> DatasetEntry:
    entry = _find(name)
    if entry.make:
        raise UsageError(f"{name!r} is generated whenever it is needed; there is nothing to download or to delete")
    return entry
