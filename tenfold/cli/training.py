"""tenfold train, tenfold doctor."""

import importlib.util
import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tenfold.cli.app import (
    RUNS,
    SKIP_BAD,
    TRAIN_EXTRA,
    Data,
    Device,
    Epochs,
    Json,
    Resize,
    Size,
    SkipBad,
    TargetError,
    ValSize,
    app,
    choose_recipe,
    is_given,
    print_accuracy,
    print_json,
    print_table,
    remark_size,
    require_extra,
)
from tenfold.console import remark
from tenfold.errors import TenfoldError, UsageError
from tenfold.machine import peak_memory, process_seconds

if TYPE_CHECKING:
    from tenfold.data import Dataset
    from tenfold.training.distributed import DistContext
    from tenfold.training.recipe import Recipe
    from tenfold.training.run import Run
    from tenfold.training.train import TrainResult


RecipeName = Annotated[str, typer.Option(envvar="TENFOLD_RECIPE", help="Name of a recipe, or a JSON file.")]
Out = Annotated[
    Path | None,
    typer.Option(envvar="TENFOLD_OUT", help="Run directory to make; by default runs/RECIPE-SEED-TIME."),
]
Seed = Annotated[int, typer.Option(envvar="TENFOLD_SEED", min=0, help="What all randomness is drawn from.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with --out, or else with the newest unfinished run.")]
WithReport = Annotated[
    bool, typer.Option("--report/--no-report", help="Whether to draw pictures and write report.html at the end.")
]
WithExport = Annotated[
    bool, typer.Option("--export/--no-export", help="Whether to write model.onnx, else predict does at first use.")
]


@app.command()
def train(
    context: typer.Context,
    recipe: RecipeName = "fast89",
    data: Data = "cifar10",
    out: Out = None,
    seed: Seed = 0,
    device: Device = "auto",
    epochs: Epochs = None,
    val_size: ValSize = None,
    size: Size = 32,
    resize: Resize = "squash",
    skip_bad: SkipBad = SKIP_BAD,
    target_error: TargetError = None,
    resume: Resume = False,
    report: WithReport = True,
    export: WithExport = True,
    as_json: Json = False,
) -> None:
    """Train a classifier, score it on the test images, and draw what it does."""
    require_extra("train", TRAIN_EXTRA)
    if resume and out:
        _refuse_busy(out)
    chosen = choose_recipe(recipe, epochs, val_size, size=32 if resume else size)  # a resumed run has its own
    from tenfold.data import load
    from tenfold.training import train as training
    from tenfold.training.device import select_device
    from tenfold.training.distributed import joined
    from tenfold.training.run import check_new

    with joined() as ranks:
        if not ranks.first:
            training.follow(ranks)
            return
        if resume:
            trained = _resume(context, out, ranks)
        else:
            path = out or RUNS / f"{chosen.name}-{seed}-{time.strftime('%Y%m%d-%H%M%S')}"
            check_new(path)  # what is wrong with this and with the device is said before anything is downloaded
            select_device(ranks.device(device))
            dataset = load(data, size=size, resize=resize, seed=seed, skip_bad=skip_bad)
            if dataset.origin:
                chosen = _fit_to_folder(chosen, recipe, epochs, val_size, dataset)
            trained = training.train(
                chosen, dataset, path, seed=seed, device=device, ranks=ranks, target_error=target_error
            )
    _score_and_draw(trained, report, export, as_json, target_error)


def _refuse_busy(out: Path) -> None:
    """Raise `BusyError` for a run in use, before torch is loaded; of the processes of torchrun the first one asks."""
    from tenfold.training.lock import Lock

    if os.environ.get("RANK", "0") == "0" and (out / "recipe.json").is_file():
        Lock(out).check()


def _resume(context: typer.Context, out: Path | None, ranks: "DistContext") -> "TrainResult":
    """Go on with `out`, or with the newest unfinished run, on its own settings."""
    from tenfold.training.run import Run, find_unfinished
    from tenfold.training.train import resume

    path = out or find_unfinished(RUNS).path
    folder = _refuse_changes(context, Run.open(path))
    return resume(path, context.params["device"] if is_given(context, "device") else None, folder, ranks)


def _fit_to_folder(
    chosen: "Recipe", name: str, epochs: float | None, val_size: int | None, dataset: "Dataset"
) -> "Recipe":
    """Fit the recipe of that name to a folder's number of images, and say how it differs from the `chosen` one."""
    if dataset.val_size and val_size is not None:
        raise UsageError(f"{dataset.name} has validation images of its own: leave --val-size out")
    images, size = len(dataset.train) - dataset.val_size, dataset.train.images.shape[1]
    remark_size(name, size)
    from tenfold.training.imbalance import has_rare_classes

    rare = has_rare_classes(dataset.train.labels)
    recipe = choose_recipe(name, epochs, val_size, dataset, size)
    if recipe != chosen:
        remark(
            f"recipe fitted to {images:,} images: {recipe.epochs:.4g} epochs in batches of "
            f"{min(recipe.batch_size, images)} (--epochs sets another number)"
            + ("; images of rare classes come more often" if rare and recipe.oversample else "")
        )
    return recipe


def _score_and_draw(
    trained: "TrainResult", report: bool, export: bool, as_json: bool, target_error: float | None
) -> None:
    """What follows training: scores first, then the model file, the table and the pictures, which take their own time.

    Where the model file cannot be made, the rest is done all the same before this is raised.
    """
    from tenfold.evaluation.evaluate import evaluate, write_scores

    say = remark if as_json else print
    began = time.perf_counter()
    evaluation = evaluate(trained.run, trained.dataset, trained.plan, target_error=target_error)
    try:
        print_accuracy(evaluation.scores, say)
    finally:  # they are kept, too, where nobody reads the answer
        seconds = _measure(trained, time.perf_counter() - began)
        unlearned = {"unlearned_classes": list(trained.unlearned_classes)}
        results = write_scores(trained.run, evaluation, seconds | unlearned)
    say(f"{seconds['total_seconds']:.1f} s from start to scores, {seconds['train_seconds']:.1f} s of them training")
    began = time.perf_counter()
    failure = _export(trained) if export else None
    times = {"export_seconds": time.perf_counter() - began}
    began = time.perf_counter()

    # Matplotlib and scikit-learn load after the scores, not before
    if not as_json:
        from tenfold.evaluation.metrics import format_per_class

        print(format_per_class(evaluation.per_class()))
    if skipped := trained.dataset.skipped:
        say(f"{skipped:,} images of {trained.dataset.name} could not be read and were skipped")
    if report:
        from tenfold.evaluation.report import write_report

        paths = write_report(trained.run, trained.dataset, evaluation)
        remark(f"report: {', '.join(map(str, reversed(paths)))}")
    if report and trained.run.recipe.network.name == "reference":
        _save_for_keras(trained)
    trained.run.unlock()
    if as_json:
        print_json(results | times | {"report_seconds": time.perf_counter() - began})
    if failure:
        raise failure


def _export(trained: "TrainResult") -> TenfoldError | None:
    """Write model.onnx, checked on test images; return what went wrong with it."""
    if importlib.util.find_spec("onnx") is None:
        remark(f"no model.onnx: onnx is not installed; add the extra 'train', then tenfold export {trained.run.path}")
        return None
    from tenfold.serving.export import export

    try:
        exported = export(trained.run, data=trained.dataset)
    except TenfoldError as error:
        return type(error)(f"trained and scored, but {error}")
    remark(f"model for predict and serve: {exported.path}, checked on {exported.verified_images:,} test images")
    return None


def _save_for_keras(trained: "TrainResult") -> None:
    """What the reference system left too: the model in Keras's format, where Keras is installed."""
    if importlib.util.find_spec("keras") is None:
        remark(f"no model.keras: add the extra 'keras', then tenfold export {trained.run.path} --to keras")
        return
    from tenfold.serving.keras_file import export_keras

    remark(f"model for Keras: {export_keras(trained.run, data=trained.dataset).path}")


def _measure(trained: "TrainResult", evaluation_seconds: float) -> dict[str, float]:
    """Where the time went, in seconds, up to now; and the most memory held, in bytes.

    Set-up is what comes before the first step, training lasts until the model is saved.
    """
    total = process_seconds() + trained.seconds_before
    return {
        "setup_seconds": total - trained.seconds - evaluation_seconds,
        "train_seconds": trained.seconds,
        "evaluation_seconds": evaluation_seconds,
        "total_seconds": total,
        "peak_memory_bytes": peak_memory(),
    }


def _refuse_changes(context: typer.Context, run: "Run") -> Path | None:
    """A resumed run keeps its settings: raise `UsageError` where an option asks for another value.

    Returns the folder that --data says its images are in now, if it says so.
    """
    recipe, env = run.recipe, run.env
    settings = {"data": env["data"], "seed": env["seed"], "epochs": recipe.epochs, "val_size": recipe.val_size}
    folder = env.get("folder")
    _refuse_folder_options(context, run.path, folder)
    if folder:
        settings |= {"size": folder["size"], "resize": folder["resize"], "skip_bad": folder.get("skip_bad", SKIP_BAD)}
        del settings["data"]  # its content tells whether it is the same
    for name, value in settings.items():
        asked = context.params[name]
        same = math.isclose(asked, value) if isinstance(asked, float) else asked == value
        if is_given(context, name) and not same:
            option = name.replace("_", "-")
            raise UsageError(f"{run.path} was begun with --{option} {value}, not {asked}: leave --{option} out")
    if is_given(context, "recipe") and not _same_recipe(
        context.params["recipe"], recipe, folder["size"] if folder else 32
    ):
        raise UsageError(
            f"{run.path} was begun with --recipe {recipe.name}, kept in its recipe.json, "
            f"not with what {context.params['recipe']} says now: leave --recipe out"
        )
    return Path(context.params["data"]) if folder and is_given(context, "data") else None


def _refuse_folder_options(context: typer.Context, path: Path, folder: dict[str, Any] | None) -> None:
    """Raise `UsageError` where an option says how to read a folder, and the run was trained on none."""
    usual = {"size": 32, "resize": "squash", "skip_bad": SKIP_BAD}
    for name, value in usual.items():
        if folder is None and is_given(context, name) and context.params[name] != value:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} is about a folder of images, {path} is trained on none: leave {option} out")


def _same_recipe(name: str, recipe: "Recipe", size: int) -> bool:
    """Whether the recipe of that name differs from a run's in nothing but what other options may have set."""
    from dataclasses import replace

    from tenfold.training.recipe import find_recipe

    # what --epochs, --val-size and a folder's number of images change
    names = ["val_size", "val_split", "batch_size", "whiten_bias_epochs", "images"]
    names += ["prune_fraction", "proxy_prune_fraction"]
    free: dict[str, Any] = {name: getattr(recipe, name) for name in names}
    asked = find_recipe(name).for_size(size)
    lengths = [stage.epochs for stage in recipe.stages]
    if len(asked.stages) == len(lengths):
        stages = zip(asked.stages, lengths, strict=True)
        free["stages"] = tuple(replace(stage, epochs=epochs) for stage, epochs in stages)
    return replace(asked, **free) == recipe


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what this machine has and what tenfold does about it."""
    require_extra("train", TRAIN_EXTRA)
    from dataclasses import asdict

    from tenfold.serving.runtime import choose_runtime, runtime_versions
    from tenfold.training.doctor import Finding, examine

    try:
        runtime = choose_runtime(quantized=True)[1]
    except UsageError as error:  # a wrong variable is a finding
        runtime = str(error)
    findings = [*examine(Path()), Finding("model files", runtime_versions(), runtime)]
    if as_json:
        print_json({"findings": [asdict(finding) for finding in findings]})
    else:
        print_table(("", "found", "so"), [(finding.name, finding.found, finding.so) for finding in findings])
