"""tenfold train, tenfold doctor."""

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tenfold.cli.app import (
    RUNS,
    TRAIN_EXTRA,
    Data,
    Device,
    Epochs,
    Json,
    ValSize,
    app,
    choose_recipe,
    peak_memory,
    print_accuracy,
    print_json,
    print_table,
    process_seconds,
    require_extra,
)
from tenfold.console import remark
from tenfold.errors import UsageError

if TYPE_CHECKING:
    from tenfold.training.recipe import Recipe
    from tenfold.training.run import Run
    from tenfold.training.train import Trained


@app.command()
def train(
    context: typer.Context,
    recipe: Annotated[str, typer.Option(envvar="TENFOLD_RECIPE", help="Name of a recipe, or a JSON file.")] = "fast89",
    data: Data = "cifar10",
    out: Annotated[
        Path | None,
        typer.Option(envvar="TENFOLD_OUT", help="Run directory to make; by default runs/RECIPE-SEED-TIME."),
    ] = None,
    seed: Annotated[int, typer.Option(envvar="TENFOLD_SEED", min=0, help="What all randomness is drawn from.")] = 0,
    device: Device = "auto",
    epochs: Epochs = None,
    val_size: ValSize = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with --out, or else with the newest unfinished run.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a classifier, score it on the test images, and draw what it does."""
    require_extra("train", TRAIN_EXTRA)
    from tenfold.training.lock import Lock

    if resume and out and (out / "recipe.json").is_file():
        Lock(out).check()  # a run in use is refused before torch is loaded
    chosen = choose_recipe(recipe, epochs, val_size)
    from tenfold.data import load
    from tenfold.training import train as training
    from tenfold.training.device import make_plan
    from tenfold.training.run import Run, check_new, find_unfinished

    if resume:
        path = out or find_unfinished(RUNS).path
        _refuse_changes(context, Run.open(path))
        trained = training.resume(path, device if _given(context, "device") else None)
    else:
        path = out or RUNS / f"{chosen.name}-{seed}-{time.strftime('%Y%m%d-%H%M%S')}"
        check_new(path)  # what is wrong with this and with the device is said before anything is downloaded
        make_plan(device)
        trained = training.train(chosen, load(data), path, seed=seed, device=device)
    _score_and_draw(trained, as_json)


def _score_and_draw(trained: "Trained", as_json: bool) -> None:
    """What follows training: scores first, then the table and the pictures, which take their own time."""
    from tenfold.evaluation.evaluate import evaluate, write_scores

    began = time.perf_counter()
    evaluation = evaluate(trained.run, trained.dataset, trained.plan)
    seconds = _measure(trained, time.perf_counter() - began)
    results = write_scores(trained.run, evaluation, seconds)  # before they are printed: a closed pipe loses nothing
    say = remark if as_json else print
    print_accuracy(evaluation.scores, say)
    say(f"{seconds['total_seconds']:.1f} s from start to scores, {trained.seconds:.1f} s of them training")
    began = time.perf_counter()

    from tenfold.evaluation.metrics import format_per_class
    from tenfold.evaluation.report import write_report  # Matplotlib and scikit-learn load after the scores, not before

    if not as_json:
        print(format_per_class(evaluation.per_class()))
    paths = write_report(trained.run, trained.dataset, evaluation)
    trained.run.unlock()
    remark(f"report: {', '.join(map(str, reversed(paths)))}")
    if as_json:
        print_json(results | {"report_seconds": time.perf_counter() - began})


def _measure(trained: "Trained", evaluation_seconds: float) -> dict[str, float]:
    """Where the time went, in seconds, up to now; and the most memory held, in bytes."""
    total = process_seconds() + trained.seconds_before
    return {
        "setup_seconds": total - trained.seconds - evaluation_seconds,
        "train_seconds": trained.seconds,
        "evaluation_seconds": evaluation_seconds,
        "total_seconds": total,
        "peak_memory_bytes": peak_memory(),
    }


def _given(context: typer.Context, name: str) -> bool:
    """Whether the user set this option, by flag or environment."""
    source = context.get_parameter_source(name)
    return source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT")


def _refuse_changes(context: typer.Context, run: "Run") -> None:
    """A resumed run keeps its settings: raise `UsageError` where an option asks for another value."""
    recipe, env = run.recipe, run.env
    settings = {"data": env["data"], "seed": env["seed"], "epochs": recipe.epochs, "val_size": recipe.val_size}
    for name, value in settings.items():
        asked = context.params[name]
        same = math.isclose(asked, value) if isinstance(asked, float) else asked == value
        if _given(context, name) and not same:
            option = name.replace("_", "-")
            raise UsageError(f"{run.path} was begun with --{option} {value}, not {asked}: leave --{option} out")
    if _given(context, "recipe") and not _same_recipe(context.params["recipe"], recipe):
        raise UsageError(
            f"{run.path} was begun with --recipe {recipe.name}, kept in its recipe.json, "
            f"not with what {context.params['recipe']} says now: leave --recipe out"
        )


def _same_recipe(name: str, recipe: "Recipe") -> bool:
    """Whether the recipe of that name differs from a run's in nothing but what other options may have set."""
    from dataclasses import replace

    from tenfold.training.recipe import find_recipe

    free = {"stages": recipe.stages, "val_size": recipe.val_size, "val_split": recipe.val_split}
    return replace(find_recipe(name), **free) == recipe  # type: ignore[arg-type]


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
