"""The command line: parse arguments, call what the verb names, print what comes back.

Results go to standard output, all else to standard error. Rooms are imported inside the verbs, so that `--help` needs
none of them.
"""

import importlib.util
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from tenfold.console import remark
from tenfold.errors import StorageError, TenfoldError, Terminated, UsageError

app = typer.Typer(no_args_is_help=True, add_completion=False)
data_app = typer.Typer(help="Get, look at and remove data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the only line of standard output.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
Device = Annotated[str, typer.Option(envvar="TENFOLD_DEVICE", help="auto, cpu, cuda, cuda:N or mps.")]
DataName = Annotated[str, typer.Argument(help="cifar10 or shapes.")]

RUNS = Path("runs")
TRAIN_EXTRA = ("torch", "pandas", "sklearn", "matplotlib", "safetensors", "pydantic", "psutil")


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
    """Train, explain and ship small-image classifiers."""


@app.command()
def train(
    context: typer.Context,
    recipe: Annotated[str, typer.Option(envvar="TENFOLD_RECIPE", help="Name of a recipe, or a JSON file.")] = "fast89",
    data: Annotated[str, typer.Option(envvar="TENFOLD_DATA", help="cifar10 or shapes.")] = "cifar10",
    out: Annotated[
        Path | None,
        typer.Option(envvar="TENFOLD_OUT", help="Run directory to make; by default runs/RECIPE-SEED-TIME."),
    ] = None,
    seed: Annotated[int, typer.Option(envvar="TENFOLD_SEED", min=0, help="What all randomness is drawn from.")] = 0,
    device: Device = "auto",
    epochs: Annotated[
        float | None, typer.Option(envvar="TENFOLD_EPOCHS", help="Stretch or shrink the recipe to this many epochs.")
    ] = None,
    val_size: Annotated[
        int | None, typer.Option(envvar="TENFOLD_VAL_SIZE", help="Hold out the last N training images.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with --out, or else with the newest unfinished run.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a classifier, score it on the test images, and draw what it does."""
    require_extra("train", TRAIN_EXTRA)
    from tenfold.data import load
    from tenfold.evaluation.evaluate import evaluate, write_scores
    from tenfold.training import train as training
    from tenfold.training.recipe import find_recipe
    from tenfold.training.run import Run, find_unfinished

    if resume:
        path = out or find_unfinished(RUNS).path
        _refuse_changes(context, Run.open(path))
        trained = training.resume(path, device if _given(context, "device") else None)
    else:
        chosen = find_recipe(recipe)
        chosen = chosen if epochs is None else chosen.with_epochs(epochs)
        chosen = chosen if val_size is None else chosen.with_val_size(val_size)
        path = out or RUNS / f"{chosen.name}-{seed}-{time.strftime('%Y%m%d-%H%M%S')}"
        trained = training.train(chosen, load(data), path, seed=seed, device=device)

    began = time.perf_counter()
    evaluation = evaluate(trained.run, trained.dataset, trained.plan)
    evaluation_seconds = time.perf_counter() - began
    total_seconds = process_seconds() + trained.seconds_before
    seconds = {
        "setup_seconds": total_seconds - trained.seconds - evaluation_seconds,
        "train_seconds": trained.seconds,
        "evaluation_seconds": evaluation_seconds,
        "total_seconds": total_seconds,
        "peak_memory_bytes": peak_memory(),
    }
    say = remark if as_json else print
    print_accuracy(evaluation.scores, say)
    say(f"{total_seconds:.1f} s from start to scores, {trained.seconds:.1f} s of them training")
    began = time.perf_counter()
    write_scores(trained.run, evaluation, seconds)

    from tenfold.evaluation.metrics import format_per_class
    from tenfold.evaluation.report import draw_plots  # Matplotlib and scikit-learn load after the scores, not before

    if not as_json:
        print(format_per_class(evaluation.per_class()))
    pictures = draw_plots(trained.run, trained.dataset)
    results = write_scores(trained.run, evaluation, seconds | {"report_seconds": time.perf_counter() - began})
    trained.run.unlock()
    remark(f"pictures: {', '.join(str(picture) for picture in pictures)}")
    if as_json:
        print_json(results)


@app.command()
def evaluate(run: RunPath, device: Device = "auto", as_json: Json = False) -> None:
    """Score a trained run on its test images again, class by class."""
    require_extra("train", TRAIN_EXTRA)
    from tenfold.data import load
    from tenfold.evaluation.evaluate import evaluate as score
    from tenfold.evaluation.metrics import expected_calibration_error, format_per_class
    from tenfold.training.device import make_plan
    from tenfold.training.run import Run

    opened = Run.open(run)
    evaluation = score(opened, load(opened.read_json("env.json")["data"]), make_plan(device))
    per_class = evaluation.per_class()
    if as_json:
        ece = expected_calibration_error(evaluation.logits, evaluation.labels)
        print_json(evaluation.scores | {"ece": ece, "per_class": per_class.to_dict("index")})
        return
    print_accuracy(evaluation.scores)
    print(format_per_class(per_class))


@app.command()
def report(run: RunPath) -> None:
    """Draw the pictures of a scored run again."""
    require_extra("train", TRAIN_EXTRA)
    from tenfold.data import load
    from tenfold.evaluation.report import draw_plots
    from tenfold.training.run import Run

    opened = Run.open(run)
    opened.lock()
    for picture in draw_plots(opened, load(opened.read_json("env.json")["data"])):
        print(picture)
    opened.unlock()


def print_accuracy(scores: dict[str, Any], say: Callable[[str], None] = print) -> None:
    """Say what a run scored on the test images."""
    views = f"({scores['test_accuracy_single_view']:.2%} with a single view)"
    losses = f"loss {scores['test_loss']:.4f}, cross-entropy {scores['test_cross_entropy']:.4f}"
    say(f"test accuracy {scores['test_accuracy']:.2%} {views}, {losses}")
    if scores["val_accuracy"] is not None:
        say(f"validation accuracy {scores['val_accuracy']:.2%}")


def _given(context: typer.Context, name: str) -> bool:
    """Whether the user set this option, by flag or environment."""
    source = context.get_parameter_source(name)
    return source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT")


def _refuse_changes(context: typer.Context, run: Any) -> None:
    """A resumed run keeps its settings: raise `UsageError` where an option asks for another value."""
    from tenfold.training.recipe import find_recipe

    recipe, env = run.recipe, run.read_json("env.json")
    settings = {
        "recipe": recipe.name,
        "data": env["data"],
        "seed": env["seed"],
        "epochs": recipe.epochs,
        "val_size": recipe.val_size,
    }
    for name, value in settings.items():
        asked = context.params[name]
        asked = find_recipe(asked).name if name == "recipe" else asked
        same = math.isclose(asked, value) if isinstance(asked, float) else asked == value
        if _given(context, name) and not same:
            option = name.replace("_", "-")
            raise UsageError(f"{run.path} was begun with --{option} {value}, not {asked}: leave --{option} out")


# --- many runs ---------------------------------------------------------------------------------------------------


@app.command()
def bench(
    recipe: Annotated[str, typer.Option(help="Names or JSON files of recipes, with commas between.")] = "fast89",
    runs: Annotated[int, typer.Option(min=1, help="Runs of each recipe.")] = 5,
    seed0: Annotated[int, typer.Option(min=0, help="Seed of the first run; the others follow.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the runs, by default runs/bench-RECIPES; runs in it are kept.")
    ] = None,
    data: Annotated[str, typer.Option(envvar="TENFOLD_DATA", help="cifar10 or shapes.")] = "cifar10",
    device: Device = "auto",
    epochs: Annotated[float | None, typer.Option(envvar="TENFOLD_EPOCHS", help="As for train.")] = None,
    val_size: Annotated[
        int | None, typer.Option(envvar="TENFOLD_VAL_SIZE", help="As for train; accuracy is then that on these images.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train recipes many times, alternately, and say what can be said: means, spreads, intervals, differences."""
    require_extra("train", TRAIN_EXTRA)
    from tenfold.data import load
    from tenfold.evaluation import plots
    from tenfold.scaling import bench as benching
    from tenfold.training.recipe import find_recipe

    names = recipe.split(",")
    for name in names:
        find_recipe(name)
    load(data)  # so that no run's time holds a download
    options = ["--data", data, "--device", device]
    options += [] if epochs is None else ["--epochs", f"{epochs:g}"]
    options += [] if val_size is None else ["--val-size", str(val_size)]
    stems = [Path(name).stem for name in names]
    path = out or RUNS / f"bench-{'-'.join(stems)}"
    timed = benching.bench(names, range(seed0, seed0 + runs), path, options)
    rows = [benching.summarize(stem, timed[name]) for stem, name in zip(stems, names, strict=True)]
    comparison = [
        benching.compare(stems[0], stem, rows[0]["accuracies"], row["accuracies"])
        for stem, row in zip(stems[1:], rows[1:], strict=True)
    ]
    plots.save(plots.accuracy_and_time(rows), path / "bench.png")
    if as_json:
        print_json({"results": rows, "comparison": comparison, "path": str(path)})
        return
    for row in rows:
        print(benching.describe(row))
    for verdict in comparison:
        print(verdict["verdict"])
    print(path / "bench.png")


@app.command("runs")
def list_runs(
    pair: Annotated[list[Path] | None, typer.Argument(metavar="[RUN RUN]", help="Two runs to compare.")] = None,
    folder: Annotated[Path, typer.Option(help="Where the runs are.")] = RUNS,
    sort: Annotated[str, typer.Option(help="date, accuracy, seconds or name.")] = "date",
    as_json: Json = False,
) -> None:
    """List the runs of a folder, or show field by field how two runs differ."""
    from dataclasses import asdict

    from tenfold.training import runs

    if pair and len(pair) != 2:
        raise UsageError("two runs can be compared: name none to list all, or two")
    if pair:
        differences = runs.compare_runs(*pair)
        if as_json:
            print_json({"a": str(pair[0]), "b": str(pair[1]), "differences": differences})
        else:
            rows = [(name, _cell(a), _cell(b)) for name, (a, b) in differences.items()]
            print_table(("field", str(pair[0]), str(pair[1])), rows)
        return
    found = runs.list_runs(folder, sort)
    if as_json:
        print_json({"runs": [asdict(row) for row in found]})
        return
    cells = [
        (
            row.run,
            row.recipe,
            row.data,
            _cell(row.seed),
            _percent(row.accuracy),
            _cell(row.seconds),
            row.date,
            row.state,
        )
        for row in found
    ]
    print_table(("run", "recipe", "data", "seed", "accuracy", "seconds", "date", "state"), cells)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what this machine has and what tenfold does about it."""
    require_extra("train", TRAIN_EXTRA)
    from dataclasses import asdict

    from tenfold.training.doctor import examine

    findings = list(examine(Path()))
    if as_json:
        print_json({"findings": [asdict(finding) for finding in findings]})
    else:
        print_table(("", "found", "so"), [(finding.name, finding.found, finding.so) for finding in findings])


# --- data --------------------------------------------------------------------------------------------------------


@data_app.command("get")
def data_get(
    name: DataName = "cifar10",
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
def data_remove(name: DataName = "cifar10") -> None:
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


# --- around every verb -------------------------------------------------------------------------------------------


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows as an aligned table on standard output; nothing is cut off where it is not a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*header, box=box.SIMPLE_HEAD, show_edge=False)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console(width=None if sys.stdout.isatty() else 10_000, highlight=False)
    console.print(table)


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object on one line of standard output."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False))


def process_seconds() -> float:
    """Seconds since the operating system started this process."""
    import psutil

    return time.time() - psutil.Process().create_time()


def peak_memory() -> int:
    """The most memory, in bytes, that this process ever held; 0 where the system does not say."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def require_extra(extra: str, modules: tuple[str, ...]) -> None:
    """Raise `UsageError` that names the extra where one of `modules` is not installed."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(f"this needs {', '.join(missing)}: install it with pip install 'tenfold[{extra}]'")


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated


def _run() -> int:
    """Run the verb; return the exit code. All errors meant for users become one line here."""
    try:
        return app(standalone_mode=False) or 0
    except TenfoldError as error:
        remark(f"tenfold: {error}")
        return error.exit_code
    except typer.TyperException as error:
        if error.format_message():  # empty where the help was printed instead
            remark(f"tenfold: {error.format_message()} (tenfold --help)")
        return UsageError.exit_code
    except OSError as error:
        remark(f"tenfold: {error.strerror}: {error.filename}")
        return StorageError.exit_code
    except MemoryError:
        remark("tenfold: out of memory: try a smaller batch_size in a recipe file")
        return StorageError.exit_code
    except Terminated as signalled:
        return signalled.exit_code


def main() -> None:
    """Entry point of the `tenfold` command."""
    signal.signal(signal.SIGTERM, _terminate)
    if os.environ.get("TENFOLD_DEBUG"):
        sys.exit(app(standalone_mode=False))
    sys.exit(_run())
