"""Which files in a folder are meant as images, and what is never data: hidden, left by a system, made by tenfold.

The one rule for training, `data check` and prediction, on one machine and on many. What tenfold writes is known by the
note `.tenfold` beside it (`tenfold.files.note_own`); folders of versions without notes by names that only they hold.
What the user names is always taken: callers ask about what lies below it.
"""

import json
import os
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from tenfold.data.formats import sniff
from tenfold.files import ALL_OWN, OWN_NOTE

SUFFIXES = {
    "PNG": {".png", ".apng"},
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "WEBP": {".webp"},
    "GIF": {".gif"},
    "BMP": {".bmp", ".dib"},
    "TIFF": {".tif", ".tiff"},
}
_UNREAD = """
.heic .heif .avif .jxl .jp2 .j2k .svg .ico .psd .xcf .tga .ppm .pgm .pbm .dng .raw .cr2 .cr3 .nef .arw
"""
IMAGE_SUFFIXES = {suffix for suffixes in SUFFIXES.values() for suffix in suffixes} | set(_UNREAD.split())
"""Endings by which a user means an image: such a file is bad where it cannot be read; any other is left alone."""

# What systems, file managers, network storage and archivers leave behind, besides names that begin with a dot.
_LITTER = {
    *("__macosx", "_ds_store", "icon\r", "network trash folder", "temporary items"),  # macOS
    *(
        "thumbs.db",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "$recycle.bin",
    ),  # Windows
    "system volume information",
    *("lost+found", "lost.dir"),  # file systems of Linux and Android
    *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),  # network storage
    "__pycache__",
}
# Names that only a folder of tenfold's holds together: a run, a model, a bench, a search, answers of a cluster.
_SIGNS: tuple[set[str], ...] = (
    {"recipe.json", "env.json"},
    {"recipe.json", "manifest.json"},
    {"recipe.json", "checkpoints"},
    {"model.json", "model.safetensors"},
    {"bench.json", "recipes"},
    {"tune.json", "tune.db"},
    {"request.json", "part-00000000.parquet"},
)
_FIRST_SIGNS = ("recipe.json", "model.json", "bench.json", "tune.json", "request.json")  # one of each of `_SIGNS`
_RUN_FOLDERS = {"checkpoints", "plots", "logits", "honesty", "audit", "logs"}
_RECIPE_KEYS = {"name", "network", "stages"}  # of every version
_MOST_RECIPE = 2**20  # bytes
_HEAD = 18  # bytes that tell what a file is
_MOST_NOTE = 2**24  # bytes of a note
_MOST_DEPTH = 4  # folders in folders that are looked through for images or output


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is left out wherever it lies: hidden, or left there by a system."""
    return name.startswith(".") or name.casefold() in _LITTER


def is_image(path: Path) -> bool:
    """Whether a file is meant as an image: by its ending, or else by its first bytes."""
    if path.suffix.casefold() in IMAGE_SUFFIXES:
        return True
    try:
        if not path.is_file():  # a pipe would wait for somebody to write
            return False
        with path.open("rb") as file:
            return sniff(file.read(_HEAD)) is not None
    except OSError:
        return False


# --- tenfold's own output ---------------------------------------------------------------------------------------------


def own_names(folder: Path) -> frozenset[str]:
    """Names in `folder` of what tenfold wrote there, as its note says; none where there is no note."""
    return _read_note(folder) or frozenset()


def is_output(folder: Path) -> bool:
    """Whether all that is in `folder` was made by tenfold, such as a run."""
    if ALL_OWN in own_names(folder):
        return True
    try:
        if not any((folder / name).exists() for name in _FIRST_SIGNS):
            return False  # most folders: they need not be listed for this
        return shows_output(os.listdir(folder), partial(_open_file, folder / "recipe.json"))  # noqa: PTH208
    except OSError:
        return False


def _open_file(path: Path) -> BinaryIO:
    if not path.is_file():  # a pipe would wait for somebody to write
        raise FileNotFoundError(path)
    return path.open("rb")


def shows_output(names: Collection[str], open_recipe: Callable[[], AbstractContextManager[Any]]) -> bool:
    """Whether these are the names in a folder of tenfold's; open_recipe: opens its `recipe.json` to be read.

    A recipe without the other files of a run is a run's where it is one of tenfold's, with no image or class beside it:
    a class of food may hold a `recipe.json`, too. Raises `OSError`.
    """
    if any(sign <= set(names) for sign in _SIGNS):
        return True
    if "recipe.json" not in names or not all(map(_may_be_of_run, names)):
        return False
    with open_recipe() as file:
        return _is_recipe(file.read(_MOST_RECIPE))


def _may_be_of_run(name: str) -> bool:
    """Whether a run may hold something of this name: no image, and no other folder; those have no ending."""
    suffix = Path(name).suffix.casefold()
    return is_hidden(name) or (suffix not in IMAGE_SUFFIXES if suffix else name in _RUN_FOLDERS)


def _is_recipe(content: bytes) -> bool:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and value.keys() >= _RECIPE_KEYS


def parse_note(content: bytes) -> frozenset[str]:
    """The names in a note, `ALL_OWN` for all of the folder; lines that are not understood are passed over."""
    names = set()
    for line in content.decode(errors="replace").splitlines():
        try:
            name = ALL_OWN if line == ALL_OWN else json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(name, str):
            names.add(name)
    return frozenset(names)


def _read_note(folder: Path) -> frozenset[str] | None:
    try:
        path = folder / OWN_NOTE
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return parse_note(file.read(_MOST_NOTE))
    except (OSError, ValueError):
        return None


def is_own(folder: Path, depth: int = _MOST_DEPTH) -> bool:
    """Whether a folder is tenfold's output, or one that holds output and no image besides, such as `runs/`."""
    return is_output(folder) or _holds_only_output(folder, depth)


def _holds_only_output(folder: Path, depth: int) -> bool:
    note = _read_note(folder)
    own = note is not None
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                path = Path(entry.path)
                if is_hidden(entry.name) or entry.name in (note or ()):
                    continue
                if depth and entry.is_dir() and is_own(path, depth - 1):
                    own = True
                elif holds_image(path, depth) if entry.is_dir() else is_image(path):
                    return False
    except (OSError, ValueError):  # the latter for a name that no file can have
        return False
    return own


def holds_image(folder: Path, depth: int = _MOST_DEPTH) -> bool:
    """Whether an image lies in `folder` or below; deeper than `depth` folders, it is taken for granted."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_hidden(entry.name):
                    continue
                if entry.is_dir():
                    if not depth or holds_image(Path(entry.path), depth - 1):
                        return True
                elif is_image(Path(entry.path)):
                    return True
    except OSError:
        return False
    return False
