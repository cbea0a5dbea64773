"""Provenance: which data a run was trained on, how they are found again, and the command that repeats the run."""

import csv
import hashlib
import io
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from tenfold.console import log_info
from tenfold.data import DATASETS, Dataset, Origin, is_cached, is_folder, load, load_named
from tenfold.data.dataset import SKIP_BAD, Split
from tenfold.errors import DataError, ModelError, StorageError, UsageError
from tenfold.files import write_text
from tenfold.training.recipe import RECIPES, Recipe
from tenfold.training.run import TARGET_ERROR, Run

SPLIT_FILE = "split.csv"
_SAMPLE = 200


def note_origin(dataset: Dataset) -> dict[str, Any]:
    """What env.json keeps of the data, so that `reload_dataset` finds it, and no other data of its name."""
    return {"folder": asdict(dataset.origin)} if dataset.origin else {"data_sha256": fingerprint(dataset)}


def fingerprint(dataset: Dataset) -> str:
    """SHA-256, in hexadecimal, of what tells data sets of one name apart: classes, labels, sizes and colours.

    The colours are rounded statistics of a sample, since drawn images may differ in a last bit between machines, and
    since this is taken before each training, where it costs milliseconds. Single changed images go unnoticed.
    """
    hashed = hashlib.sha256(json.dumps([*dataset.classes, dataset.val_size]).encode())
    for part in (dataset.train, dataset.test):
        hashed.update(json.dumps([part.images.shape, _colours(part)]).encode())
        hashed.update(part.labels.astype("<i8").tobytes())
    return hashed.hexdigest()


def _colours(part: Split) -> list[int]:
    """Mean and standard deviation of each channel over some of the images, as whole numbers in [0, 255]."""
    rows = np.linspace(0, len(part) - 1, min(len(part), _SAMPLE)).astype(int)
    pixels = part.images[rows].reshape(-1, 3).astype(np.float64)
    return [round(value) for value in (*pixels.mean(0), *pixels.std(0))] if len(pixels) else []


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


@dataclass(frozen=True)
class FoundData:
    """The images that there are for a run where any of its kind will do: to check or to quantise a model file.

    dataset: the data that the run was trained on (`own`), other images of its classes, or None; with test images in
    any case. reason: why they are not its own, as a sentence without its full stop.
    """

    dataset: Dataset | None
    own: bool
    reason: str = ""


def find_data(run: Run, data: Dataset | Path | FoundData | None = None) -> FoundData:
    """Find images for a run, without the network: `data` (a folder, a data set), else what it was trained on.

    What was found before is returned as it is.

    Its own folder may have changed, or be gone. Raises `DataError` where `data` is given and has no test images of the
    run's classes and size, `ModelError` for a damaged run.
    """
    if isinstance(data, FoundData):
        return data
    if data is not None:
        return _given_data(run, data)
    env = run.env
    try:
        return _found_folder(run, env) if "folder" in env else _found_by_name(run, env)
    except (DataError, StorageError, OSError) as error:  # a cache that cannot be written, files that cannot be read
        return FoundData(None, False, str(error))


def _given_data(run: Run, data: Dataset | Path) -> FoundData:
    model, env = run.description, run.env
    if isinstance(data, Path):
        from tenfold.data.folder import load_folder  # here, because it brings Pillow

        data = load_folder(
            data,
            model.size,
            model.resize,
            env["seed"],
            bit_depth=model.bit_depth,
            skip_bad=_skip_bad(env),
            classes=model.classes,
        )
    dataset = data.with_classes(model.classes)
    if dataset.classes != model.classes or dataset.train.images.shape[1] != model.size or not len(dataset.test):
        size = f"{len(model.classes):,} classes, {model.size} pixels a side"
        raise DataError(f"{data.name} holds no test images of the kind that {run.path} was trained on: {size}")
    own = is_own(env, data)
    return FoundData(dataset, own, "" if own else f"{data.name} is not what {run.path} was trained on")


def _found_folder(run: Run, env: Mapping[str, Any]) -> FoundData:
    dataset, own = _read_folder(run, env, None)
    if own:
        return FoundData(dataset, True)
    same_classes = dataset.classes == run.description.classes
    return FoundData(dataset if same_classes else None, False, _format_changes(run, dataset))


def _found_by_name(run: Run, env: Mapping[str, Any]) -> FoundData:
    name = env["data"]
    if name in DATASETS and not is_cached(name):
        return FoundData(None, False, f"{name}, which {run.path} was trained on, is not in the cache of this machine")
    return FoundData(reload_dataset(run), True)


def reload_dataset(run: Run, folder: Path | None = None, in_python: str = "") -> Dataset:
    """Load the data that a run was trained on, a folder from where it was then, or from `folder`.

    in_python: what takes a data set that only Python has, for the error. Raises `DataError` where the data is such, or
    where its folder moved or changed, `UsageError` for a folder where it was trained on none, `ModelError`.
    """
    env = run.env
    if "folder" in env:
        dataset, own = _read_folder(run, env, folder)
        if not own:
            raise DataError(f"{_format_changes(run, dataset)}: train again")
        return dataset
    if folder:
        raise UsageError(f"{run.path} was trained on {env['data']}, not on a folder: leave --data out")
    if env["data"] in DATASETS:
        dataset = load_named(env["data"])
        if is_own(env, dataset):
            return dataset
    where = f"{run.path} was trained on a data set made in Python, called {env['data']!r}, that no command can load"
    raise DataError(f"{where}: {f'call {in_python} in Python' if in_python else 'hand it over in Python'}")


def is_own(env: Mapping[str, Any], dataset: Dataset) -> bool:
    """Whether a run of that environment was trained on `dataset`, as far as it noted: old runs noted the name only."""
    if "folder" in env:
        return dataset.origin is not None and dataset.origin.sha256 == env["folder"].get("sha256")
    noted = env.get("data_sha256")
    return dataset.name == env["data"] and noted in (None, fingerprint(dataset))


def have_same_data(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether runs of these environments were trained on the same data, as far as they noted: see `is_own`."""
    if "folder" in first or "folder" in second:
        return digest_of_data(first) == digest_of_data(second)
    noted = (digest_of_data(first), digest_of_data(second))
    return first["data"] == second["data"] and (None in noted or noted[0] == noted[1])


def digest_of_data(env: Mapping[str, Any]) -> str | None:
    """What a run noted of its data's content; None for old runs on data with a name."""
    found = env["folder"].get("sha256") if "folder" in env else env.get("data_sha256")
    return None if found is None else str(found)


def is_read_alike(run: Run, dataset: Dataset) -> bool:
    """Whether the run's own folder was read as for the run: by the same seed, which draws test images, to such pixels.

    Old runs have no list of their test images.
    """
    origin, names = origin_of(run, run.env), dataset.test.names
    listed = {name for name, split in _listed(run) if split == "test"}
    same_images = not listed or names is None or listed == set(names.tolist())
    return same_images and (dataset.resize, dataset.bit_depth) == (origin.resize, origin.bit_depth)


def _read_folder(run: Run, env: Mapping[str, Any], folder: Path | None) -> tuple[Dataset, bool]:
    """The folder that a run was trained on, as it is now, and whether it is still the same."""
    origin = origin_of(run, env)
    path = folder or Path(origin.path)
    if not path.is_dir():
        raise DataError(f"{path}, which {run.path} was trained on, is not there any more: say where it is with --data")
    from tenfold.data.folder import load_folder  # here, because it brings Pillow

    dataset = load_folder(
        path,
        origin.size,
        origin.resize,
        env["seed"],
        bit_depth=origin.bit_depth,
        skip_bad=origin.skip_bad,
        classes=_known_classes(run),
    )
    return dataset, is_own(env, dataset)


def _known_classes(run: Run) -> tuple[str, ...]:
    """The classes that a run's folder had: earlier versions took folders for classes that are now taken for splits."""
    listed = {row.get("class") or "" for row in _rows(run)} - {""}
    return tuple(sorted(listed)) or (run.description.classes if run.trained else ())


def origin_of(run: Run, env: Mapping[str, Any]) -> Origin:
    """The folder that a run notes in its environment. Raises `ModelError` where that is damaged."""
    try:
        origin = Origin(**env["folder"])
        kinds = {field.name: type(getattr(Origin("", "", 0, ""), field.name)) for field in fields(Origin)}
        return Origin(**{name: kind(getattr(origin, name)) for name, kind in kinds.items()})
    except (TypeError, ValueError) as error:
        raise ModelError(f"{run.path / 'env.json'}: folder is damaged") from error


def _format_changes(run: Run, dataset: Dataset) -> str:
    where = dataset.origin.path if dataset.origin else dataset.name
    return f"{where} is not what {run.path} was trained on{_what_changed(run, dataset)}"


def other_data(run: Run, name: str, skip_bad: str | None = None) -> Dataset:
    """Load data for a run to be scored on: its own (see `is_own`), or other.

    skip_bad: how many files of a folder may be unreadable; None for as many as the run's own data were allowed.

    A folder's images are brought to the size that the run knows. Without `test/` or `val/` all of them are scored on,
    and any of the run's classes but one may be missing. Raises `ModelError`, `DataError`, `UsageError`.
    """
    env = run.env
    if not is_folder(name):
        return load(name, skip_bad=skip_bad or SKIP_BAD)
    if "folder" in env and Path(name).resolve() == Path(env["folder"]["path"]):
        if skip_bad and skip_bad != _skip_bad(env):
            log_info(f"--skip-bad {skip_bad} is without effect: {name} is read as {run.path} was trained on it")
        return reload_dataset(run)  # if it changed, most of its images were still trained on
    from tenfold.data.folder import TEST_SHARE, log_left_out, make_dataset, read_folder

    model = run.description
    skip_bad = skip_bad or _skip_bad(env)
    folder = read_folder(
        Path(name), model.size, model.resize, bit_depth=model.bit_depth, skip_bad=skip_bad, classes=model.classes
    )
    log_left_out(folder)
    own = "folder" in env and folder.sha256 == env["folder"]["sha256"]
    dataset = make_dataset(folder, env["seed"], TEST_SHARE if own else 1.0)
    if not own:
        _warn_of_known(run, dataset)
    return dataset.with_classes(model.classes)


def _skip_bad(env: Mapping[str, Any]) -> str:
    """How many bad files the run's own folder was allowed to have."""
    folder = env.get("folder")
    return str(folder.get("skip_bad", SKIP_BAD)) if isinstance(folder, dict) else SKIP_BAD


def _warn_of_known(run: Run, dataset: Dataset) -> None:
    """Say it where images to be scored on have names of those that the run was trained on: it may be them."""
    known = _names(dataset) & {name for name, split in _listed(run) if split != "test"}
    if known:
        count = f"{len(known):,} of these images have names (as {min(known)}) of images that {run.path} was trained on"
        log_info(f"{count}: if they are the same, the scores are too good")


def _listed(run: Run) -> Iterator[tuple[str, str]]:
    """Name and split of every image that a run was made with, where it has a list of them."""
    yield from ((row.get("path") or "", row.get("split") or "") for row in _rows(run))


def _rows(run: Run) -> Iterator[dict[str, str | None]]:
    path = run.path / SPLIT_FILE
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            yield from csv.DictReader(file)


def _names(dataset: Dataset) -> set[str]:
    parts = (dataset.train.names, dataset.test.names)
    return {name for names in parts if names is not None for name in names.tolist()}


def _what_changed(run: Run, dataset: Dataset) -> str:
    """Say which files came and went, as far as the run's list of them tells."""
    before, now_there = {name for name, _ in _listed(run)}, _names(dataset)
    if not before:
        return ""
    counts = {"gone": before - now_there, "new": now_there - before}
    parts = [f"{len(names):,} {what} (as {min(names)})" for what, names in counts.items() if names]
    return f"; images: {', '.join(parts) or 'the same names, other content'}"


def reproduction(recipe: Recipe, seed: int, data: str, origin: Origin | None, target_error: float) -> str:
    """The command that trains this run again on data of that name: by the recipe's name where that suffices.

    target_error: what the run's threshold is to keep (`run.target_error_of`). For a data set made in Python, which no
    command can load, it is the call.
    """
    named = RECIPES.get(recipe.name)
    options = ""
    if named and named != recipe:
        if named.val_size != recipe.val_size:
            named, options = named.with_val_size(recipe.val_size), f" --val-size {recipe.val_size}"
        if named.epochs != recipe.epochs:
            named, options = named.with_epochs(recipe.epochs), f"{options} --epochs {recipe.epochs!r}"
    source, options = (recipe.name, options) if named == recipe else ("recipe.json", "")
    usual = target_error == TARGET_ERROR
    if not usual:
        options += f" --target-error {target_error!r}"
    if origin:
        options += f" {shlex.join(origin.options())}"
    elif data not in DATASETS:
        more = "" if usual else f", target_error={target_error!r}"
        return f'tenfold.train(tenfold.find_recipe("recipe.json"), dataset, Path("again"), seed={seed}{more})'
    return f"tenfold train --recipe {source} --data {shlex.quote(data)} --seed {seed}{options}"
