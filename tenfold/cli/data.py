"""tenfold data get, show, remove."""

from pathlib import Path
from typing import Annotated

import typer

from tenfold.cli.app import Json, app, print_json, require_extra

data_app = typer.Typer(help="Get, look at and remove data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")

FetchedName = Annotated[str, typer.Argument(help="cifar10; what is drawn needs no getting.")]
DataName = Annotated[str, typer.Argument(help="cifar10 or shapes.")]


@data_app.command("get")
def data_get(
    name: FetchedName = "cifar10",
    from_path: Annotated[
        Path | None,
        typer.Option("--from", help="CIFAR-10 on disk: an archive or folder of any of its published forms."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Have a data set in the cache, verified."""
    from dataclasses import asdict

    from tenfold.data import get

    cached = asdict(get(name, from_path))
    if as_json:
        print_json(cached)
    else:
        print(f"{cached['path']}: {cached['train']:,} training and {cached['test']:,} test images, verified")
        print(f"source: {cached['source']}")


@data_app.command("remove")
def data_remove(name: FetchedName = "cifar10") -> None:
    """Delete a data set from the cache."""
    from tenfold.data import remove

    removed = remove(name)
    print(f"removed {removed}" if removed else f"{name} is not in the cache")


@data_app.command("show")
def data_show(
    name: DataName = "cifar10",
    out: Annotated[Path | None, typer.Option(help="PNG to write; by default NAME.png.")] = None,
    seed: Annotated[int, typer.Option(envvar="TENFOLD_SEED", min=0, help="Which images are drawn.")] = 0,
    as_json: Json = False,
) -> None:
    """Draw some images of every class and count them."""
    require_extra("train", ("matplotlib",))
    import numpy as np

    from tenfold.data import load
    from tenfold.evaluation import plots

    dataset = load(name)
    path = out or Path(f"{name}.png")
    title = f"{name}: {len(dataset.train):,} training images"
    plots.save(plots.class_grid(dataset.train.images, dataset.train.labels, dataset.classes, title, seed=seed), path)

    def count(labels: np.ndarray) -> dict[str, int]:
        return dict(zip(dataset.classes, np.bincount(labels, minlength=len(dataset.classes)).tolist(), strict=True))

    counts = {"train": count(dataset.train.labels), "test": count(dataset.test.labels)}
    if as_json:
        print_json({"data": name, "path": str(path), **counts})
        return
    for label in dataset.classes:
        print(f"{label:12} {counts['train'][label]:>7,} training {counts['test'][label]:>7,} test")
    print(path)
