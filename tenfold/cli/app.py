"""The app that the verbs are added to, the options that they share, and how they answer."""

import importlib.util
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tenfold.console import printable
from tenfold.errors import UsageError

if TYPE_CHECKING:
    from tenfold.training.recipe import Recipe

app = typer.Typer(no_args_is_help=True, add_completion=False)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the only line of standard output.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
Device = Annotated[str, typer.Option(envvar="TENFOLD_DEVICE", help="auto, cpu, cuda, cuda:N or mps.")]
Data = Annotated[
    str, typer.Option(envvar="TENFOLD_DATA", help="cifar10, shapes, or a folder of images with a subfolder a class.")
]
Size = Annotated[
    int, typer.Option(envvar="TENFOLD_SIZE", min=8, max=64, help="Pixels a side that a folder's images are brought to.")
]
Resize = Annotated[
    str, typer.Option(envvar="TENFOLD_RESIZE", help="How: squash (all of it), crop (its middle) or pad (with grey).")
]
Epochs = Annotated[
    float | None, typer.Option(envvar="TENFOLD_EPOCHS", help="Stretch or shrink the recipe to this many epochs.")
]
ValSize = Annotated[int | None, typer.Option(envvar="TENFOLD_VAL_SIZE", help="Hold out the last N training images.")]
TargetError = Annotated[
    float | None,
    typer.Option(
        envvar="TENFOLD_TARGET_ERROR",
        min=0.001,
        max=0.5,
        help="Share of wrong answers that the threshold of predict --reject is to keep, by default 0.01; "
        "fitted on validation images (train --val-size).",
    ),
]
Cluster = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Do it on the Ray cluster at HOST:PORT, or auto: this machine's.")
]

RUNS = Path("runs")
TRAIN_EXTRA = ("torch", "pandas", "sklearn", "scipy", "matplotlib", "safetensors", "pydantic", "psutil", "jinja2")
HONESTY_EXTRA = (*TRAIN_EXTRA, "cleanlab", "captum")
TUNE_EXTRA = ("optuna", "sqlalchemy")
CLUSTER_EXTRA = ("ray", "pyarrow")
SERVE_EXTRA = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"tenfold {version('tenfold')}")
        raise typer.Exit


@app.callback()
def before_any_verb(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train small-image classifiers, score them, and see where they err."""


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows as an aligned table on standard output; nothing is cut off where it is not a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*header, box=box.SIMPLE_HEAD, show_edge=False)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(width=None if sys.stdout and sys.stdout.isatty() else 10_000, highlight=False)
    console.print(table)


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object on one line of standard output."""
    ascii_only = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") != "utf8"
    print(json.dumps(value, ensure_ascii=ascii_only, allow_nan=False))


def require_extra(extra: str, modules: tuple[str, ...]) -> None:
    """Raise `UsageError` that names the extra where one of `modules` is not installed."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        how = f"pip install '.[{extra}]' where tenfold's source lies"
        raise UsageError(f"this needs {', '.join(missing)} of the extra {extra!r}: {how}")


def choose_recipe(name: str, epochs: float | None, val_size: int | None, images: int | None = None) -> "Recipe":
    """Find the recipe of that name or file, fitted to so many `images`, changed as --epochs and --val-size ask.

    Raises `UsageError`.
    """
    from tenfold.training.recipe import find_recipe

    recipe = find_recipe(name)
    recipe = recipe if images is None else recipe.for_images(images)
    recipe = recipe if epochs is None else recipe.with_epochs(epochs)
    return recipe if val_size is None else recipe.with_val_size(val_size)


def print_accuracy(scores: dict[str, Any], say: Callable[[str], None] = print) -> None:
    """Say what a run scored on the test images."""
    from tenfold.evaluation.calibration import say as say_calibration

    views = f"({scores['test_accuracy_single_view']:.2%} with a single view)"
    losses = f"loss {scores['test_loss']:.4f}, cross-entropy {scores['test_cross_entropy']:.4f}"
    low, high = scores["test_accuracy_interval"]
    say(f"test accuracy {scores['test_accuracy']:.2%} {views}, {losses}")
    say(f"on other test images like these, 95 % sure: {low:.1%} to {high:.1%}")
    if scores["val_accuracy"] is not None:
        say(f"validation accuracy {scores['val_accuracy']:.2%}")
    say(f"calibration error {scores['ece']:.2%} ({scores['ece_single_view']:.2%} with a single view)")
    for sentence in say_calibration(scores["calibration"]):
        say(sentence)
