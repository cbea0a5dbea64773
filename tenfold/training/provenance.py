"""Provenance: the data that a run was trained on, found again, and other data for it to be scored on."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tenfold.console import log_info
from tenfold.data import DATASETS, Dataset, LabelFile, Origin, is_cached, is_folder, load, load_named
from tenfold.data.corrections import CORRECTIONS, apply_corrections, parse_corrections
from tenfold.data.dataset import SKIP_BAD
from tenfold.errors import DataError, ModelError, StorageError, UsageError, one_line
from tenfold.files import sha256
from tenfold.training.fingerprint import is_own
from tenfold.training.run import Run
from tenfold.training.split_file import read_rows, read_splits


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
    dataset = as_own(run, data.with_classes(model.classes))
    if dataset.classes != model.classes or dataset.train.images.shape[1] != model.size or not len(dataset.test):
        size = f"{len(model.classes):,} classes, {model.size} pixels a side"
        raise DataError(f"{data.name} holds no test images of the kind that {run.path} was trained on: {size}")
    own = is_own(env, dataset)
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


def reload_dataset(run: Run, folder: Path | None = None, in_python: str = "", labels: Path | None = None) -> Dataset:
    """Load the data that a run was trained on, a folder from where it was then, or from `folder`.

    in_python: what takes a data set that only Python has, for the error. labels: where its label file is now. Raises
    `DataError` where the data is such, or where its folder moved or changed, `UsageError` for a folder or a label file
    where it was trained on none, `ModelError`.
    """
    env = run.env
    if labels and not env.get("folder", {}).get("labels"):
        raise UsageError(f"{run.path} was trained without a label file: leave --labels out")
    if "folder" in env:
        dataset, own = _read_folder(run, env, folder, labels)
        if not own:
            raise DataError(f"{_format_changes(run, dataset)}: train again")
        return dataset
    if folder:
        raise UsageError(f"{run.path} was trained on {env['data']}, not on a folder: leave --data out")
    if env["data"] in DATASETS:
        dataset = as_own(run, load_named(env["data"]))
        if is_own(env, dataset):
            return dataset
    where = f"{run.path} was trained on a data set made in Python, called {env['data']!r}, that no command can load"
    raise DataError(f"{where}: {f'call {in_python} in Python' if in_python else 'hand it over in Python'}")


def is_read_alike(run: Run, dataset: Dataset) -> bool:
    """Whether the run's own folder was read as for the run: by the same seed, which draws test images, to such pixels.

    Old runs have no list of their test images.
    """
    origin, names = origin_of(run, run.env), dataset.test.names
    listed = {name for name, split in read_splits(run) if split == "test"}
    same_images = not listed or names is None or listed == set(names.tolist())
    return same_images and (dataset.resize, dataset.bit_depth) == (origin.resize, origin.bit_depth)


def _read_folder(
    run: Run, env: Mapping[str, Any], folder: Path | None, labels: Path | None = None
) -> tuple[Dataset, bool]:
    """The folder that a run was trained on, as it is now, and whether it is still the same."""
    origin = origin_of(run, env)
    path = folder or _folder_beside(origin, labels)
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
        labels=_label_file(run, origin, path, labels),
    )
    dataset = as_own(run, dataset)
    return dataset, is_own(env, dataset)


def as_own(run: Run, dataset: Dataset) -> Dataset:
    """The data set with the run's corrections where it is the run's own but for these; else as it is.

    Raises `ModelError` where the run's copy of its corrections is damaged.
    """
    noted = run.env.get("corrections")
    if not noted or dataset.corrections or is_own(run.env, dataset):
        return dataset
    try:
        content = (run.path / CORRECTIONS).read_bytes()
        if hashlib.sha256(content).hexdigest() != noted["sha256"]:
            raise ValueError("it is not what was written")
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{run.path / CORRECTIONS} is damaged: {one_line(error)}") from error
    try:
        corrected = apply_corrections(dataset, parse_corrections(content))
    except DataError:  # about images that other data do not have
        return dataset
    return corrected if is_own(run.env, corrected) else dataset


def _folder_beside(origin: Origin, labels: Path | None) -> Path:
    """The folder of a run's images: that beside its label file, where both were one folder that moved."""
    folder = Path(origin.path)
    if labels and not folder.is_dir() and Path(origin.labels).parent == folder:
        return labels.absolute().parent
    return folder


def _label_file(run: Run, origin: Origin, folder: Path, labels: Path | None) -> LabelFile | None:
    """A run's label file, in `folder` where that moved with it. Raises `DataError` where it is not there."""
    if not origin.labels:
        return None
    path = labels or Path(origin.labels)
    inner = Path(origin.labels)
    if not labels and not path.is_file() and inner.is_relative_to(origin.path):
        path = folder / inner.relative_to(origin.path)
    if not path.is_file():
        how = "put it back, or say where it is with --labels (train --resume, evaluate)"
        raise DataError(f"{labels or inner}, the label file of {run.path}, is not there: {how}")
    return LabelFile(path, origin.label_columns)


def _known_classes(run: Run) -> tuple[str, ...]:
    """The classes that a run's folder had: earlier versions took folders for classes that are now taken for splits."""
    listed = {row.get("class") or "" for row in read_rows(run)} - {""}
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
    if dataset.origin and dataset.origin.labels:
        changed = dataset.origin.labels_sha256 != run.env["folder"].get("labels_sha256")
        where = f"{where} with {dataset.origin.labels}{', which changed,' * changed}"
    return f"{where} is not what {run.path} was trained on{_what_changed(run, dataset)}"


def other_data(run: Run, name: str, skip_bad: str | None = None, labels: LabelFile | None = None) -> Dataset:
    """Load data for a run to be scored on: its own (see `is_own`), or other.

    skip_bad: how many files of a folder may be unreadable; None for as many as the run's own data were allowed.
    labels: the file that names the images in the folder `name`, and their classes.

    A folder's images are brought to the size that the run knows. Without `test/` or `val/` all of them are scored on,
    and any of the run's classes but one may be missing. Raises `ModelError`, `DataError`, `UsageError`.
    """
    env = run.env
    if not labels and not is_folder(name):
        return load(name, skip_bad=skip_bad or SKIP_BAD)
    if "folder" in env and _is_own_place(origin_of(run, env), Path(name), labels):
        if skip_bad and skip_bad != _skip_bad(env):
            log_info(f"--skip-bad {skip_bad} is without effect: {name} is read as {run.path} was trained on it")
        return reload_dataset(run, Path(name))  # if it changed, most of its images were still trained on
    from tenfold.data.folder import TEST_SHARE, log_left_out, make_dataset, read_folder

    model = run.description
    skip_bad = skip_bad or _skip_bad(env)
    folder = read_folder(
        Path(name),
        model.size,
        model.resize,
        bit_depth=model.bit_depth,
        skip_bad=skip_bad,
        classes=model.classes,
        labels=labels,
    )
    log_left_out(folder)
    own = "folder" in env and folder.sha256 == (env["folder"].get("uncorrected_sha256") or env["folder"]["sha256"])
    dataset = make_dataset(folder, env["seed"], TEST_SHARE if own else 1.0)
    if own:
        return as_own(run, dataset.with_classes(model.classes))
    _warn_of_known(run, dataset)
    return dataset.with_classes(model.classes)


def _is_own_place(origin: Origin, folder: Path, labels: LabelFile | None) -> bool:
    """Whether that is the folder of a run's images, or one that it moved to with the label file in it."""
    if labels:
        return folder.resolve() == Path(origin.path) and str(labels.path.resolve()) == origin.labels
    if folder.resolve() == Path(origin.path) or not Path(origin.labels).is_relative_to(origin.path):
        return folder.resolve() == Path(origin.path)
    moved = folder / Path(origin.labels).relative_to(origin.path)
    return bool(origin.labels) and moved.is_file() and sha256(moved) == origin.labels_sha256


def _skip_bad(env: Mapping[str, Any]) -> str:
    """How many bad files the run's own folder was allowed to have."""
    folder = env.get("folder")
    return str(folder.get("skip_bad", SKIP_BAD)) if isinstance(folder, dict) else SKIP_BAD


def _warn_of_known(run: Run, dataset: Dataset) -> None:
    """Say it where images to be scored on have names of those that the run was trained on: it may be them."""
    known = _names(dataset) & {name for name, split in read_splits(run) if split != "test"}
    if known:
        count = f"{len(known):,} of these images have names (as {min(known)}) of images that {run.path} was trained on"
        log_info(f"{count}: if they are the same, the scores are too good")


def _names(dataset: Dataset) -> set[str]:
    parts = (dataset.train.names, dataset.test.names)
    return {name for names in parts if names is not None for name in names.tolist()}


def _what_changed(run: Run, dataset: Dataset) -> str:
    """Say which files came and went, as far as the run's list of them tells."""
    before, now_there = {name for name, _ in read_splits(run)}, _names(dataset)
    if not before:
        return ""
    counts = {"gone": before - now_there, "new": now_there - before}
    parts = [f"{len(names):,} {what} (as {min(names)})" for what, names in counts.items() if names]
    return f"; images: {', '.join(parts) or 'the same names, other content'}"
