"""The data that a run was trained on: noted, found again, told apart from others; the command that repeats the run."""

import csv
import io
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tenfold.console import remark
from tenfold.data import NAMES, Dataset, Origin, is_folder, load, load_named
from tenfold.data.dataset import Split
from tenfold.data.entries import SKIP_BAD
from tenfold.errors import DataError, ModelError, UsageError
from tenfold.files import write_text
from tenfold.training.recipe import RECIPES, Recipe
from tenfold.training.run import Run

SPLIT_FILE = "split.csv"


def note_origin(dataset: Dataset) -> dict[str, Any]:
    """What env.json keeps of a folder, so that `dataset_of` finds it again; nothing for data known by name."""
    return {"folder": asdict(dataset.origin)} if dataset.origin else {}


def write_split(run: Run, dataset: Dataset, train: Split, val: Split | None) -> None:
    """Write split.csv: every image's path below its folder, its class, and what it was used for."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("path", "class", "split"))
    for name, part in (("train", train), ("val", val), ("test", dataset.test)):
        if part is not None and part.names is not None:
            rows.writerows(
                (path, dataset.classes[label], name) for path, label in zip(part.names, part.labels, strict=True)
            )
    write_text(run.path / SPLIT_FILE, text.getvalue())


def dataset_of(run: Run, folder: Path | None = None) -> Dataset:
    """Load the data that a run was trained on, a folder from where it was then, or from `folder`.

    Raises `ModelError` where the run names none that is known, `DataError` where its folder moved or changed,
    `UsageError` for a folder where it was trained on none.
    """
    env = run.env
    if "folder" in env:
        return _folder_of(run, env, folder)
    if folder:
        raise UsageError(f"{run.path} was trained on {env['data']}, not on a folder: leave --data out")
    if env["data"] not in NAMES:
        raise ModelError(f"{run.path / 'env.json'}: no data set is named {env['data']!r}")
    return load_named(env["data"])


def _folder_of(run: Run, env: Mapping[str, Any], folder: Path | None) -> Dataset:
    try:
        origin = Origin(**env["folder"])
        path, size, resize = folder or Path(origin.path), int(origin.size), str(origin.resize)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{run.path / 'env.json'}: folder is damaged") from error
    if not path.is_dir():
        raise DataError(f"{path}, which {run.path} was trained on, is not there any more: say where it is with --data")
    from tenfold.data.folder import load_folder  # here, because it brings Pillow

    dataset = load_folder(path, size, resize, env["seed"], str(origin.skip_bad))
    if not dataset.origin or dataset.origin.sha256 != origin.sha256:
        raise DataError(f"{path} is not what {run.path} was trained on{_what_changed(run, dataset)}: train again")
    return dataset


def other_data(run: Run, name: str, skip_bad: str | None = None) -> tuple[Dataset, bool]:
    """Load data for a run to be scored on, and say whether the run was trained on it.

    skip_bad: how many files of a folder may be unreadable; None for as many as the run's own data were allowed.

    A folder's images are brought to the size that the run knows. Without `test/` or `val/` all of them are scored on,
    and any of the run's classes but one may be missing. Raises `ModelError`, `DataError`, `UsageError`.
    """
    env = run.env
    if not is_folder(name):
        return load(name), name == env["data"]
    if "folder" in env and Path(name).resolve() == Path(env["folder"]["path"]):
        return _folder_of(run, env, None), True  # if it changed, most of its images were still trained on
    from tenfold.data.folder import TEST_SHARE, make_dataset, read_folder

    model = run.description
    pictures = read_folder(Path(name), model.size, model.resize, skip_bad or _skip_bad(env), classes_known=True)
    own = "folder" in env and pictures.sha256 == env["folder"]["sha256"]
    dataset = make_dataset(pictures, env["seed"], TEST_SHARE if own else 1.0)
    if not own:
        _warn_of_known(run, dataset)
    return dataset.with_classes(model.classes), own


def _skip_bad(env: Mapping[str, Any]) -> str:
    """How many bad files the run's own folder was allowed to have."""
    folder = env.get("folder")
    return str(folder.get("skip_bad", SKIP_BAD)) if isinstance(folder, dict) else SKIP_BAD


def _warn_of_known(run: Run, dataset: Dataset) -> None:
    """Say it where images to be scored on have names of those that the run was trained on: it may be them."""
    known = _names(dataset) & {name for name, split in _listed(run) if split != "test"}
    if known:
        count = f"{len(known):,} of these images have names (as {min(known)}) of images that {run.path} was trained on"
        remark(f"{count}: if they are the same, the scores are too good")


def _listed(run: Run) -> Iterator[tuple[str, str]]:
    """Name and split of every image that a run was made with, where it has a list of them."""
    path = run.path / SPLIT_FILE
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            yield from ((row.get("path") or "", row.get("split") or "") for row in csv.DictReader(file))


def _names(dataset: Dataset) -> set[str]:
    parts = (dataset.train.names, dataset.test.names)
    return {name for names in parts if names is not None for name in names.tolist()}


def _what_changed(run: Run, dataset: Dataset) -> str:
    """Say which files came and went, as far as the run's list of them tells."""
    before, now_there = {name for name, _ in _listed(run)}, _names(dataset)
    if not before:
        return ""
    counts = {"gone": before - now_there, "new": now_there - before}
    told = [f"{len(names):,} {what} (as {min(names)})" for what, names in counts.items() if names]
    return f"; images: {', '.join(told) or 'the same names, other content'}"


def reproduction(recipe: Recipe, seed: int, dataset: Dataset) -> str:
    """The command that trains this run again: by the recipe's name where that suffices, else from its file."""
    named = RECIPES.get(recipe.name)
    options = ""
    if named and named != recipe:
        if named.val_size != recipe.val_size:
            named, options = named.with_val_size(recipe.val_size), f" --val-size {recipe.val_size}"
        if named.epochs != recipe.epochs:
            named, options = named.with_epochs(recipe.epochs), f"{options} --epochs {recipe.epochs!r}"
    source, options = (recipe.name, options) if named == recipe else ("recipe.json", "")
    if dataset.origin:
        options += f" --size {dataset.origin.size} --resize {dataset.origin.resize}"
        if dataset.origin.skip_bad != SKIP_BAD:
            options += f" --skip-bad {dataset.origin.skip_bad}"
    return f"tenfold train --recipe {source} --data {shlex.quote(dataset.name)} --seed {seed}{options}"
