"""The app that commands are added to, the options that they share, and how they print."""

import functools
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tenfold.console import log_info, percent, printable
from tenfold.errors import UsageError, did_you_mean
from tenfold.files import expand_home

if TYPE_CHECKING:
    from tenfold.data import LabelFile

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
    return expand_home(value) if name in PATHS_AS_TEXT and isinstance(value, str) else value


app = HomeTyper(no_args_is_help=True, add_completion=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the only line of standard output.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
Device = Annotated[str, typer.Option(envvar="TENFOLD_DEVICE", help="auto, cpu, cuda, cuda:N or mps.")]
DType = Annotated[
    str, typer.Option(envvar="TENFOLD_DTYPE", help="Number format of training: auto, bfloat16 or float32.")
]
Data = Annotated[
    str,
    typer.Option(
        envvar="TENFOLD_DATA", help="A data set (tenfold data list) or a folder of images with a subfolder a class."
    ),
]
Size = Annotated[
    int | None,
    typer.Option(
        envvar="TENFOLD_SIZE",
        min=8,
        max=256,
        show_default="32; 160 for the recipe pretrained",
        help="Pixels a side that a folder's images are brought to; recipes reference and pretrained take 32 or more.",
    ),
]
Balance = Annotated[
    str | None,
    typer.Option(
        envvar="TENFOLD_BALANCE",
        metavar="none|loss|sampling|auto",
        show_default="as the recipe says",
        help="How rare classes are made up for: they count more, or come more often; auto tries on held-out images.",
    ),
]
FineTune = Annotated[
    str | None,
    typer.Option(
        envvar="TENFOLD_FINE_TUNE",
        help="Of the recipe pretrained, whether all layers are trained: on, off or auto (unless it is clearly worse).",
    ),
]


def _current_resize(value: str) -> str:
    from tenfold.data.resize import current_resize

    return str(current_resize(value))


Resize = Annotated[
    str,
    typer.Option(
        envvar="TENFOLD_RESIZE",
        callback=_current_resize,
        help="How: stretch (all of it), center_crop (its middle) or pad (with grey).",
    ),
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
Labels = Annotated[
    Path | None,
    typer.Option(
        envvar="TENFOLD_LABELS",
        metavar="FILE",
        help="CSV or parquet file that names the images in the folder of --data, or beside it, and their classes.",
    ),
]
LabelColumns = Annotated[
    str,
    typer.Option(
        metavar="ROLE=NAME,…",
        help="Its columns path, label, split, group, weight where they are called otherwise: path=file,label=species.",
    ),
]
CorrectionsFile = Annotated[
    Path | None,
    typer.Option(
        "--corrections",
        envvar="TENFOLD_CORRECTIONS",
        metavar="FILE",
        help="CSV file of labels to change and images to leave out, as saved on a run's report page.",
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


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"tenfold {version('tenfold')}")
        raise typer.Exit


@app.callback()
def before_any_command(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train image classifiers, score them, and see where they err."""
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
            log_info(f"{name}={value} is ignored: Kubernetes sets it for a service named tenfold")


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


def check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    """Raise `UsageError` where an option's value is none of its `choices`."""
    if value not in choices:
        known = f"{', '.join(choices[:-1])} or {choices[-1]}"
        raise UsageError(f"{option} must be {known}, not {value}{did_you_mean(value, choices)}")


def is_given(context: typer.Context, name: str, by: tuple[str, ...] = ("COMMANDLINE", "ENVIRONMENT")) -> bool:
    """Whether the user set this option, by flag or environment."""
    source = context.get_parameter_source(name)
    return source is not None and source.name in by


def labelled(
    context: typer.Context, option: str, labels: Path | None, label_columns: str
) -> tuple[str, "LabelFile | None"]:
    """What --data (or another `option`) names, and the label file; with one, by default the folder that it lies in.

    Raises `UsageError`.
    """
    from tenfold.data import as_label_file, folder_of

    label_file, data = as_label_file(labels, label_columns), str(context.params[option])
    if label_file is None:
        return data, None
    return folder_of(label_file, data if is_given(context, option) else None), label_file


def _share(share: float) -> str:
    return percent(share, 2, "%")


def print_accuracy(scores: dict[str, Any], write: Callable[[str], None] = print) -> None:
    """Write the main metrics of a run, a line each."""
    from tenfold.evaluation.calibration import calibration_in, format_calibration
    from tenfold.evaluation.rejection import format_rejection, rejection_in

    views = f"({_share(scores['test_accuracy_single_view'])} without TTA)"
    losses = f"loss {scores['test_loss']:.4f}, cross-entropy {scores['test_cross_entropy']:.4f}"
    low, high = scores["test_accuracy_interval"]
    write(f"test accuracy {_share(scores['test_accuracy'])} {views}, {losses}")
    write(f"95 % interval: {low:.1%} to {high:.1%}")
    if "balanced_accuracy" in scores:  # results of before have none
        low, high = scores["balanced_accuracy_interval"]
        balanced = f"balanced accuracy {_share(scores['balanced_accuracy'])} (95 % interval: {low:.1%} to {high:.1%})"
        write(f"{balanced}, macro F1 {_share(scores['macro_f1'])}")
    if scores["val_accuracy"] is not None:
        single = scores.get("val_accuracy_single_view")  # results of before have none
        views = "" if single is None else f" ({_share(single)} without TTA)"
        write(f"validation accuracy {_share(scores['val_accuracy'])}{views}")
    write(f"calibration error {scores['ece']:.2%} ({scores['ece_single_view']:.2%} without TTA)")
    for sentence in [*format_calibration(calibration_in(scores)), *format_rejection(rejection_in(scores))]:
        write(sentence)
