"""tenfold train, tenfold doctor."""

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tenfold import extras
from tenfold.cli.app import (
    RUNS,
    SKIP_BAD,
    Balance,
    CorrectionsFile,
    Data,
    Device,
    DType,
    Epochs,
    FineTune,
    Json,
    LabelColumns,
    Labels,
    Resize,
    Size,
    SkipBad,
    TargetError,
    ValSize,
    app,
    is_given,
    print_accuracy,
    print_json,
    print_table,
)
from tenfold.cli.evaluation import refuse_busy
from tenfold.console import plural
from tenfold.errors import UsageError
from tenfold.machine import process_seconds

if TYPE_CHECKING:
    from tenfold.api.run import Run
    from tenfold.training.callbacks import Callback
    from tenfold.training.recipe import Recipe
    from tenfold.training.run import Run as RunDirectory


RecipeName = Annotated[
    str,
    typer.Option(
        envvar="TENFOLD_RECIPE",
        help="Name of a recipe, or a JSON file; auto: pretrained for a folder of few or of large images, else fast89.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(envvar="TENFOLD_OUT", help="Run directory to make; by default runs/RECIPE-SEED-TIME."),
]
Seed = Annotated[int, typer.Option(envvar="TENFOLD_SEED", min=0, help="Random seed.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Resume --out, or else the newest unfinished run, with the options it had.")
]
WithReport = Annotated[
    bool | None,
    typer.Option(
        "--report/--no-report",
        show_default="report",
        help="Whether to draw plots and write report.html at the end.",
    ),
]
WithExport = Annotated[
    bool | None,
    typer.Option(
        "--export/--no-export",
        show_default="export",
        help="Whether to write model.onnx, else predict does at first use.",
    ),
]


Both = Annotated[
    bool,
    typer.Option(
        "--compare", help="Train fast89 and pretrained on the same split, and compare them; --out is a folder."
    ),
]
Log = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Log to tensorboard, mlflow or another registered callback; may be repeated."),
]


@app.command()
def train(
    context: typer.Context,
    recipe: RecipeName = "auto",
    data: Data = "cifar10",
    out: Out = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: DType = "auto",
    epochs: Epochs = None,
    val_size: ValSize = None,
    size: Size = None,
    resize: Resize = "stretch",
    skip_bad: SkipBad = SKIP_BAD,
    labels: Labels = None,
    label_columns: LabelColumns = "",
    corrections: CorrectionsFile = None,
    fine_tune: FineTune = None,
    balance: Balance = None,
    target_error: TargetError = None,
    compare: Both = False,
    resume: Resume = False,
    log: Log = None,
    report: WithReport = None,
    export: WithExport = None,
    as_json: Json = False,
) -> None:
    """Train a classifier, score it on the test images, write its model file and report."""
    extras.require("train", extras.TRAIN)
    if resume and out and _is_first_rank():
        refuse_busy(out)
    from tenfold.api import training

    after: dict[str, Any] = {"target_error": target_error, "log": log or ()} | _wanted(resume, report, export)
    options: dict[str, Any] = {"size": size, "resize": resize, "skip_bad": skip_bad, "seed": seed, "device": device}
    options |= {"labels": labels, "label_columns": label_columns, "corrections": corrections, "dtype": dtype}
    source = None if labels and not is_given(context, "data") else data
    if compare:
        _train_both(context, source, out, options | after | {"val_size": val_size}, as_json)
        return
    after |= {"callbacks": [_printer(as_json)], "clock": process_seconds}
    if resume:
        out, folder = _check_unfinished(context, out) if _is_first_rank() else (None, None)
        training.resume(out, folder, labels=labels, device=device if is_given(context, "device") else None, **after)
        return
    options |= {"epochs": epochs, "val_size": val_size, "fine_tune": fine_tune, "balance": balance}
    training.train(recipe, source, out, **options, **after)


def _train_both(
    context: typer.Context, data: str | None, out: Path | None, options: dict[str, Any], as_json: bool
) -> None:
    """Train both recipes and say how they differ. Raises `UsageError` for options of one of them."""
    for name in ("recipe", "fine_tune", "balance", "epochs", "resume"):
        if is_given(context, name):
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"--compare trains two recipes as they are: leave {option} out, or train each by itself")
    from tenfold.api.comparison import train_both
    from tenfold.training.networks.efficientnet_lite0 import IMAGENET

    IMAGENET.require()

    page = train_both(data, out, callbacks=[] if as_json else [_printer(as_json)], **options)
    if as_json:
        print_json(page.to_dict())
    else:
        print(*page.differences, page.path, sep="\n")


def _wanted(resume: bool, report: bool | None, export: bool | None) -> dict[str, bool | None]:
    """What is to follow training: where nothing is asked, all for a new run, None (as it was) for a resumed one."""
    asked = {"report": report, "export": export}
    return asked if resume else {name: wanted is not False for name, wanted in asked.items()}


def _is_first_rank() -> bool:
    """Whether this is the one of the processes of torchrun that has the run directory; alone it is."""
    return os.environ.get("RANK", "0") == "0"


def _check_unfinished(context: typer.Context, out: Path | None) -> tuple[Path, Path | None]:
    """Find `out`, or the newest unfinished run, and where its folder of images is now, if --data says so.

    Raises `UsageError` for other settings than the run's, `ModelError` where there is nothing to resume.
    """
    from tenfold.training.run import Run
    from tenfold.training.unfinished import find_unfinished

    run = Run.open(out) if out else find_unfinished(RUNS)
    return run.path, _refuse_changes(context, run)


def _printer(as_json: bool) -> "Callback":
    from tenfold.console import log_info
    from tenfold.evaluation.metrics import format_per_class
    from tenfold.training.callbacks import Callback

    class PrintResults(Callback):
        """Prints scores as soon as there are some; the JSON object, which has all times, at the end."""

        def on_evaluation_end(self, run: "Run") -> None:  # type: ignore[override]
            _print_scores(run.require_scores(), log_info if as_json else print)
            if not as_json:  # pandas and scikit-learn take their time to load
                print(format_per_class(run.per_class), flush=True)  # into a pipe, too, before the rest takes its time

        def on_run_end(self, run: "Run") -> None:  # type: ignore[override]
            if as_json:
                times = {"export_seconds": 0.0, "report_seconds": 0.0} | run.timings
                print_json(run.require_scores() | times)

    return PrintResults()


def _print_scores(results: dict[str, Any], say: Any) -> None:
    print_accuracy(results, say)
    say(f"{results['total_seconds']:.1f} s from start to scores, {results['train_seconds']:.1f} s of them training")
    if skipped := results.get("skipped_images"):
        say(f"skipped {plural(skipped, 'image')} of {results['data']} that could not be read")


def _refuse_changes(context: typer.Context, run: "RunDirectory") -> Path | None:
    """A resumed run keeps its settings: raise `UsageError` where an option asks for another value.

    Returns the folder that --data says its images are in now, if it says so.
    """
    recipe, env = run.recipe, run.env
    settings = {"data": env["data"], "seed": env["seed"], "epochs": recipe.epochs, "val_size": recipe.val_size}
    folder = env.get("folder")
    _refuse_folder_options(context, run.path, folder)
    _refuse_corrections(context, run.path)
    if folder:
        settings |= {"size": folder["size"], "resize": folder["resize"], "skip_bad": folder.get("skip_bad", SKIP_BAD)}
        settings |= {"label_columns": folder.get("label_columns", "")}
        del settings["data"]  # its content tells whether it is the same
    for name, value in settings.items():
        asked = context.params[name]
        same = math.isclose(asked, value) if isinstance(asked, float) else asked == value
        if is_given(context, name) and not same:
            option = name.replace("_", "-")
            raise UsageError(f"{run.path} was started with --{option} {value}, not {asked}: leave --{option} out")
    if is_given(context, "fine_tune") and context.params["fine_tune"] not in ("auto", recipe.fine_tune):
        raise UsageError(f"{run.path} was started with --fine-tune {recipe.fine_tune}: leave --fine-tune out")
    if is_given(context, "dtype") and context.params["dtype"] not in ("auto", env["dtype"]):
        raise UsageError(f"{run.path} was started in {env['dtype']}, and keeps that: leave --dtype out")
    if is_given(context, "balance"):
        raise UsageError(f"{run.path} keeps how its classes are balanced, see recipe.json: leave --balance out")
    asked_recipe, size = context.params["recipe"], folder["size"] if folder else _size_of(env["data"])
    if is_given(context, "recipe") and asked_recipe != "auto" and not _same_recipe(asked_recipe, recipe, size):
        raise UsageError(
            f"{run.path} was started with --recipe {recipe.name}, kept in its recipe.json, "
            f"not with what {asked_recipe} says now: leave --recipe out"
        )
    return Path(context.params["data"]) if folder and is_given(context, "data") else None


def _refuse_corrections(context: typer.Context, path: Path) -> None:
    """Raise `UsageError` for other corrections than those that the run keeps a copy of."""
    from tenfold.data.corrections import CORRECTIONS, read_corrections

    asked: Path | None = context.params["corrections"]
    if asked is None:
        return
    kept = (path / CORRECTIONS).read_bytes() if (path / CORRECTIONS).is_file() else None
    if read_corrections(asked).content != kept:
        raise UsageError(
            f"{path} was started {'with other' if kept else 'without'} corrections: leave --corrections out"
        )


def _refuse_folder_options(context: typer.Context, path: Path, folder: dict[str, Any] | None) -> None:
    """Raise `UsageError` where an option says how to read a folder, and the run was trained on none."""
    usual = {"size": 32, "resize": "stretch", "skip_bad": SKIP_BAD}
    for name, value in usual.items():
        if folder is None and is_given(context, name) and context.params[name] != value:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} is about a folder of images, {path} is trained on none: leave {option} out")


def _size_of(data: str) -> int:
    """Pixels a side of a data set's images; 32 for one that only Python has."""
    from tenfold.data import DATASETS

    return DATASETS.find(data).shape[1] if data in DATASETS else 32


def _same_recipe(name: str, recipe: "Recipe", size: int) -> bool:
    """Whether the recipe of that name differs from a run's in nothing but what other options may have set."""
    from dataclasses import replace

    from tenfold.training.recipe_files import find_recipe

    # what --epochs, --val-size and a folder's number of images change
    names = ["val_size", "val_split", "batch_size", "whiten_bias_epochs", "images"]
    names += ["prune_fraction", "proxy_prune_fraction", "low_res_fraction", "fine_tune"]
    free: dict[str, Any] = {name: getattr(recipe, name) for name in names}
    asked = find_recipe(name).for_size(size)
    lengths = [stage.epochs for stage in recipe.stages]
    if len(asked.stages) == len(lengths):
        stages = zip(asked.stages, lengths, strict=True)
        free["stages"] = tuple(replace(stage, epochs=epochs) for stage, epochs in stages)
    try:
        return replace(asked, **free) == recipe
    except ValueError:  # not even a recipe: they go with another network
        return False


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check what this machine has, and how tenfold uses it."""
    extras.require("train", extras.TRAIN)
    from dataclasses import asdict

    from tenfold.serving.runtime import choose_runtime, runtime_versions
    from tenfold.training.doctor import Check, examine

    try:
        runtime = choose_runtime(quantized=True)[1]
    except UsageError as error:  # a wrong variable is a check
        runtime = str(error)
    checks = [*examine(Path()), Check("model files", runtime_versions(), runtime)]
    if as_json:
        print_json({"checks": [asdict(check) for check in checks]})
    else:
        print_table(("", "found", "so"), [(check.name, check.found, check.so) for check in checks])
