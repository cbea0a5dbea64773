"""tenfold data download, list, show, check, delete."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tenfold import extras
from tenfold.cli.app import (
    SKIP_BAD,
    HomeTyper,
    Json,
    LabelColumns,
    Labels,
    Resize,
    Size,
    SkipBad,
    app,
    labelled,
    print_json,
    print_table,
)
from tenfold.console import printable
from tenfold.errors import DataError, SkippedError, UsageError

if TYPE_CHECKING:
    from tenfold.data.entry import DatasetEntry
    from tenfold.data.listing import Issue

data_app = HomeTyper(help="Download, list, show, check and delete data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")

DownloadedName = Annotated[str, typer.Argument(help="A data set; those that are generated need no download.")]
DataName = Annotated[
    str, typer.Argument(help="A data set (tenfold data list) or a folder of images, one subfolder per class.")
]
DeletedName = Annotated[
    str, typer.Argument(help="A data set, or a folder: only its cached copy is deleted, never the folder.")
]
MOST_SHOWN = 10  # issues of one kind
CODES = {"error": DataError.exit_code, "skipped": SkippedError.exit_code}  # by the gravest issue


@data_app.command("download")
def data_download(
    name: DownloadedName = "cifar10",
    from_path: Annotated[
        Path | None,
        typer.Option("--from", help="Its files on disk; of CIFAR-10, an archive or folder of any published form."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Download a data set into the cache and verify it."""
    from dataclasses import asdict

    from tenfold.data import get

    cached = asdict(get(name, from_path))
    if as_json:
        print_json(cached)
    else:
        print(f"{cached['path']}: {cached['train']:,} training and {cached['test']:,} test images, verified")
        print(f"source: {cached['source']}")


@data_app.command("list")
def data_list(as_json: Json = False) -> None:
    """List the named data sets and whether they need a download."""
    from tenfold.data import DATASETS, is_cached

    entries = {name: DATASETS.find(name) for name in DATASETS}
    available = {name: is_cached(name) for name in entries}
    if as_json:
        print_json({"data": [_to_json(entry) | {"available": available[name]} for name, entry in entries.items()]})
        return
    header = ("data set", "images", "size", "classes", "available offline", "licence")
    print_table(header, [(*_cells(entry, available[name]), entry.licence) for name, entry in entries.items()])


def _to_json(entry: "DatasetEntry") -> dict[str, Any]:
    names = ("name", "title", "classes", "shape", "train", "test", "format", "licence", "citation", "sources")
    return {name: getattr(entry, name) for name in names}


def _cells(entry: "DatasetEntry", available: bool) -> tuple[str, ...]:
    height, width, _ = entry.shape
    images = f"{entry.train:,} + {entry.test:,}"
    return entry.name, images, f"{height}×{width}", str(len(entry.classes)), "yes" if available else "no"


@data_app.command("delete")
def data_delete(name: DeletedName = "cifar10") -> None:
    """Delete a data set from the cache."""
    from tenfold.data import remove

    deleted = remove(name)
    print(f"deleted {deleted}" if deleted else f"{name} is not in the cache")


@data_app.command("show")
def data_show(
    context: typer.Context,
    name: DataName = "cifar10",
    out: Annotated[Path | None, typer.Option(help="PNG to write; by default NAME.png.")] = None,
    seed: Annotated[int, typer.Option(envvar="TENFOLD_SEED", min=0, help="Which images are drawn.")] = 0,
    size: Size = None,
    resize: Resize = "stretch",
    skip_bad: SkipBad = SKIP_BAD,
    labels: Labels = None,
    label_columns: LabelColumns = "",
    as_json: Json = False,
) -> None:
    """Draw sample images of every class and count the images."""
    extras.require("train", ("matplotlib",))
    import numpy as np

    from tenfold.data import load
    from tenfold.evaluation import plots

    name, label_file = labelled(context, "name", labels, label_columns)
    dataset = load(name, size=size or 32, resize=resize, seed=seed, skip_bad=skip_bad, labels=label_file)
    path = out or Path(f"{Path(dataset.name).name}.png")
    title = f"{dataset.name}: {len(dataset.train):,} training images"
    plots.save(plots.class_grid(dataset.train.images, dataset.train.labels, dataset.classes, title, seed=seed), path)

    def count(labels: np.ndarray) -> dict[str, int]:
        return dict(zip(dataset.classes, np.bincount(labels, minlength=len(dataset.classes)).tolist(), strict=True))

    counts = {"train": count(dataset.train.labels), "test": count(dataset.test.labels)}
    if as_json:
        print_json({"data": name, "path": str(path), **counts})
        return
    for label in dataset.classes:
        print(f"{printable(label):12} {counts['train'][label]:>7,} training {counts['test'][label]:>7,} test")
    print(path)


@data_app.command("check")
def data_check(
    folder: Annotated[
        Path | None,
        typer.Argument(help="A folder of images with a subfolder a class; with --labels, that of its paths."),
    ] = None,
    labels: Labels = None,
    label_columns: LabelColumns = "",
    skip_bad: SkipBad = SKIP_BAD,
    as_json: Json = False,
) -> None:
    """Check a folder of images: list problems by file and what to do about each. Nothing is changed.

    Exit code 3: the folder cannot be trained on; 8: files would be skipped; else 0.
    """
    from tenfold.data import as_label_file, folder_of
    from tenfold.data.check import check_folder

    label_file = as_label_file(labels, label_columns)
    if label_file:
        folder = Path(folder_of(label_file, None if folder is None else str(folder)))
    if folder is None:
        raise UsageError("name a folder of images, or a label file with --labels")
    checked = check_folder(folder, skip_bad, label_file)
    if as_json:
        print_json(checked.to_json())
    else:
        _print_counts(checked.counts)
        _print_issues(checked.issues)
        print("cannot be trained on as it is" if checked.worst == "error" else "can be trained on")
    raise typer.Exit(CODES.get(checked.worst, 0))


def _print_counts(counts: "dict[str, dict[str, int]]") -> None:
    names = next(iter(counts.values()), {})
    splits = [split or "images" for split in counts]
    print_table(("class", *splits), [(name, *(f"{part[name]:,}" for part in counts.values())) for name in names])


def _print_issues(issues: "Sequence[Issue]") -> None:
    """A paragraph for each kind, at most `MOST_SHOWN` of each."""
    kinds: dict[str, list[Issue]] = {}
    for issue in issues:
        kinds.setdefault(f"{issue.severity}: {issue.kind}", []).append(issue)
    for kind, found in kinds.items():
        print(f"{kind} ({len(found):,})")
        for issue in found[:MOST_SHOWN]:
            print(f"  {printable(str(issue))}")
        if len(found) > MOST_SHOWN:
            print(f"  … and {len(found) - MOST_SHOWN:,} more: --json lists all")
