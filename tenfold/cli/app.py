"""The app that the verbs are added to, the options that they share, and how they answer."""

import functools
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tenfold.console import percent, printable, remark
from tenfold.errors import UsageError
from tenfold.files import expand_home

if TYPE_CHECKING:
    from tenfold.data import Dataset
    from tenfold.training.recipe import Recipe

PATHS_AS_TEXT = ("data", "name", "recipe", "sources")
"""Options and arguments that may hold a path but are text: a data set's or recipe's name, a pattern, a URI."""


class HomeTyper(typer.Typer):
    """Typer whose commands get paths with `~` expanded: a shell leaves `--data=~/x` and variables as they are."""

    def command(self, *names: Any, **settings: Any) -> Callable[[Any], Any]:
        """As `typer.Typer.command`."""
        register = super().command(*names, **settings)

        def decorate(function: Any) -> Any:
            register(_with_home(function))
            return function

        return decorate


def _with_home(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(**options: Any) -> Any:
        paths = {name: _expand(name, value) for name, value in options.items()}
        if isinstance(context := options.get("context"), typer.Context):
            context.params |= {name: paths[name] for name in PATHS_AS_TEXT if name in paths}
        return function(**paths)

    return call


def _expand(name: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_expand(name, item) for item in value]
    if isinstance(value, Path):
        return Path(expand_home(str(value)))
    if name == "recipe" and isinstance(value, str):  # `bench` takes several
        return ",".join(map(expand_home, value.split(",")))
    return expand_home(value) if name in PATHS_AS_TEXT and isinstance(value, str) else value


app = HomeTyper(no_args_is_help=True, add_completion=False)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the only line of standard output.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
Device = Annotated[str, typer.Option(envvar="TENFOLD_DEVICE", help="auto, cpu, cuda, cuda:N or mps.")]
Data = Annotated[
    str, typer.Option(envvar="TENFOLD_DATA", help="cifar10, shapes, or a folder of images with a subfolder a class.")
]
Size = Annotated[
    int,
    typer.Option(
        envvar="TENFOLD_SIZE",
        min=8,
        max=64,
        help="Pixels a side that a folder's images are brought to; the recipe reference takes 32 or more.",
    ),
]
Resize = Annotated[
    str, typer.Option(envvar="TENFOLD_RESIZE", help="How: squash (all of it), crop (its middle) or pad (with grey).")
]
SKIP_BAD = "1%"  # as `tenfold.data.dataset` has it, which would bring NumPy to --help
SkipBad = Annotated[
    str,
    typer.Option(
        envvar="TENFOLD_SKIP_BAD",
        metavar="N|N%|all",
        help="How many of a folder's images may be unreadable: a number, a share (one at least) or all.",
    ),
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
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train small-image classifiers, score them, and see where they err."""
    _ignore_service_links(_variables(getattr(context.command, "commands", {}).get(context.invoked_subcommand)))


def _variables(command: Any) -> Iterator[str]:
    """Names of the environment variables that a command's options read, and those below it."""
    for parameter in getattr(command, "params", ()):
        named = parameter.envvar or ()
        yield from (named,) if isinstance(named, str) else named
    for below in getattr(command, "commands", {}).values():
        yield from _variables(below)


def _ignore_service_links(names: Iterable[str]) -> None:
    """Take out what Kubernetes, or Docker, says of a service named tenfold: TENFOLD_PORT is no port then."""
    for name in sorted(set(names)):
        value = os.environ.get(name, "")
        if name.endswith("_PORT") and re.match("(tcp|udp|sctp)://", value):
            del os.environ[name]
            remark(f"{name}={value} is ignored: Kubernetes sets it for a service named tenfold")


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


def is_given(context: typer.Context, name: str, by: tuple[str, ...] = ("COMMANDLINE", "ENVIRONMENT")) -> bool:
    """Whether the user set this option, by flag or environment."""
    source = context.get_parameter_source(name)
    return source is not None and source.name in by


def choose_recipe(
    name: str,
    epochs: float | None,
    val_size: int | None,
    dataset: "Dataset | None" = None,
    size: int = 32,
) -> "Recipe":
    """Find the recipe of that name or file, changed as --epochs and --val-size ask.

    It is fitted to a `dataset` from a folder, and to the `size` of its images.

    Raises `UsageError`.
    """
    from tenfold.training.recipe import find_recipe

    recipe = find_recipe(name).for_size(size)
    if dataset:
        from tenfold.training.imbalance import fit_recipe

        recipe = fit_recipe(recipe, dataset.train, dataset.val_size)
    recipe = recipe if epochs is None else recipe.with_epochs(epochs)
    return recipe if val_size is None else recipe.with_val_size(val_size)


def _share(share: float) -> str:
    return percent(share, 2, "%")


def remark_size(name: str, size: int) -> None:
    """Say how the recipe of that name is fitted to images of `size` pixels a side, if it is."""
    from tenfold.training.recipe import find_recipe

    if changes := (usual := find_recipe(name)).changes(usual.for_size(size)):
        remark(f"recipe fitted to images of {size} pixels: {changes}")


def print_accuracy(scores: dict[str, Any], say: Callable[[str], None] = print) -> None:
    """Say what a run scored on the test images."""
    from tenfold.evaluation.calibration import say as say_calibration

    views = f"({_share(scores['test_accuracy_single_view'])} with a single view)"
    losses = f"loss {scores['test_loss']:.4f}, cross-entropy {scores['test_cross_entropy']:.4f}"
    low, high = scores["test_accuracy_interval"]
    say(f"test accuracy {_share(scores['test_accuracy'])} {views}, {losses}")
    say(f"on other test images like these, 95 % sure: {low:.1%} to {high:.1%}")
    if scores["val_accuracy"] is not None:
        say(f"validation accuracy {_share(scores['val_accuracy'])}")
    say(f"calibration error {scores['ece']:.2%} ({scores['ece_single_view']:.2%} with a single view)")
    for sentence in say_calibration(scores["calibration"]):
        say(sentence)
