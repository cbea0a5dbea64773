"""tenfold evaluate, report, compare, explain."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tenfold import extras
from tenfold.cli.app import (
    Device,
    Json,
    RunPath,
    TargetError,
    app,
    is_given,
    print_accuracy,
    print_json,
)
from tenfold.console import log_info, percent, printable
from tenfold.errors import DataError, ImageError, SkippedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from tenfold.data import Dataset
    from tenfold.evaluation.evaluate import Evaluation
    from tenfold.evaluation.explain import Explanation
    from tenfold.serving.predict import PredictionResult
    from tenfold.training.run import Run


ScoredData = Annotated[
    str | None,
    typer.Option(
        help="Score on the test images of other data; the run then stays as it is. "
        "Or: where the run's own folder is now."
    ),
]
SkipBadIn = Annotated[
    str | None,
    typer.Option(
        envvar="TENFOLD_SKIP_BAD",
        metavar="N|N%|all",
        help="With --data: how many images may be unreadable; by default, as the run's own data were allowed.",
    ),
]
MovedFolder = Annotated[Path | None, typer.Option(help="Where the run's folder of images is now, if it moved.")]
Predictions = Annotated[Path | None, typer.Option(help="CSV to write, with a row an image.")]


@app.command()
def evaluate(
    context: typer.Context,
    run: RunPath,
    data: ScoredData = None,
    skip_bad: SkipBadIn = None,
    predictions: Predictions = None,
    target_error: TargetError = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Score a trained run on its test images: accuracy, per-class metrics, calibration."""
    extras.require("train", extras.TRAIN)
    if data is None:
        refuse_busy(run)
    from tenfold.api.run import Run
    from tenfold.evaluation.evaluate import to_csv
    from tenfold.files import write_text
    from tenfold.training.provenance import is_own

    opened = Run.open(run)
    dataset = _load_data(opened, data, skip_bad)
    other = dataset is not None and not is_own(opened.env, dataset)
    if other and not is_given(context, "target_error", by=("COMMANDLINE",)):
        target_error = None  # a variable is for all commands that it concerns
    evaluated = opened.evaluate(dataset, device=device, target_error=target_error)
    scores = evaluated.scores | {"data": dataset.name} if dataset and other else opened.require_scores()
    if predictions:
        write_text(predictions, to_csv(evaluated.predictions()))
    if as_json:
        print_json(scores | evaluated.details())
        return
    _print_scores(scores, evaluated)
    if dataset and dataset.skipped:
        print(f"{dataset.skipped:,} images of {dataset.name} could not be read and were skipped")


def _load_data(run: "Run", data: str | None, skip_bad: str | None) -> "Dataset | None":
    """The data to score on; None for the run's own, which `evaluate` finds, or does without."""
    from tenfold.training.provenance import other_data

    if skip_bad and not data:
        log_info(
            f"--skip-bad {skip_bad} is without effect: the run's own images are read as they were for its training"
        )
    return other_data(run, data, skip_bad) if data else None


def _print_scores(scores: dict[str, Any], evaluated: "Evaluation") -> None:
    from tenfold.evaluation import metrics

    print_accuracy(scores)
    print(metrics.format_per_class(evaluated.per_class()))
    print(metrics.format_confusions(metrics.top_confusions(evaluated.confusion_matrix()), evaluated.classes))


def refuse_busy(run: Path) -> None:
    """Raise `BusyError` for a run in use, before torch is loaded."""
    from tenfold.training.lock import Lock

    if (run / "recipe.json").is_file():
        Lock(run).check()


@app.command()
def report(
    run: RunPath,
    data: MovedFolder = None,
    device: Device = "auto",
) -> None:
    """Write a scored run's plots and its page, report.html, again."""
    extras.require("train", extras.TRAIN)
    refuse_busy(run)
    from tenfold.api.run import Run

    for path in Run.open(run).report(data, device=device):
        print(path)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN…", help="Two or more run directories.")],
    out: Annotated[Path, typer.Option(help="Page to write.")] = Path("comparison.html"),
    data: MovedFolder = None,
) -> None:
    """Compare scored runs on one page: metrics side by side, significance tests, disagreements."""
    extras.require("train", extras.TRAIN)
    if len(runs) < 2:
        raise UsageError(f"compare takes two or more runs: for one, use tenfold report {runs[0]}")
    for run in runs:
        refuse_busy(run)
    from tenfold.api.comparison import compare as compare_runs

    print(compare_runs(runs, out, data))


@app.command()
def explain(
    run: RunPath,
    sources: Annotated[list[str], typer.Argument(metavar="IMAGE…", help="Files, folders, patterns, or -.")],
    out: Annotated[Path, typer.Option(help="Folder for the plots, one per image.")] = Path("explanations"),
    top: Annotated[int, typer.Option(min=1, help="How many predictions to draw.")] = 5,
    as_json: Json = False,
) -> None:
    """Draw saliency maps: which parts of an image speak for or against the prediction."""
    extras.require("train", extras.AUDIT)
    from tenfold.training.run import Run

    records, bad = [], 0
    for name, explained in _explain_all(Run.open(run), sources, out, top):
        if isinstance(explained, ImageError):
            log_info(f"{name}: {explained}")
            records.append({"path": name, "error": str(explained)})
            bad += 1
            continue
        records.append(explained)
        if not as_json:
            said = f"{explained['label']} {percent(explained['probability'], 2, '%')}"
            agree = f"agreement of saliency and occlusion {explained['agreement']:.2f}"
            print(printable(f"{name}: {said}; {agree}; {explained['png']}"))
    if as_json:
        print_json({"images": records})
    if bad:
        raise SkippedError(f"{bad:,} of {len(records):,} images could not be read")
    if not records:
        raise DataError(f"no images in {', '.join(sources)}")


def _explain_all(
    run: "Run", sources: list[str], out: Path, top: int
) -> "Iterator[tuple[str, dict[str, Any] | ImageError]]":
    """Explain and draw images one by one: name, and what is said of it or why it cannot be read."""
    from tenfold.data.image import decode
    from tenfold.evaluation.calibration import calibration_in
    from tenfold.evaluation.explain import explain as look
    from tenfold.serving.inputs import find
    from tenfold.serving.predict import describe, to_answer
    from tenfold.training.device import select_device

    model, description = run.load_model(select_device("cpu")), run.description
    calibration = calibration_in(run.read_json("results.json")) if run.scored else None
    temperature = calibration.temperature if calibration else 1.0
    for item in find(sources, sys.stdin.buffer):
        try:
            pixels = decode(item.read(), model.size, description.resize, bit_depth=description.bit_depth)
        except ImageError as error:
            yield item.name, error
            continue
        (explained,) = look(model, pixels[None], temperature)
        path = _free_name(out, Path(item.name).stem)
        answer = to_answer(item.name, explained.probabilities, model.classes, top, threshold=None)
        _draw_explanation(path, answer, pixels, explained)
        record = {"path": item.name, "png": str(path), **describe(answer), "agreement": explained.agreement}
        yield item.name, record


def _free_name(folder: Path, stem: str) -> Path:
    """A file of that stem that is not there yet."""
    stem = stem.strip("-.") or "image"
    path, number = folder / f"{stem}.png", 2
    while path.exists():
        path, number = folder / f"{stem}-{number}.png", number + 1
    return path


def _draw_explanation(path: Path, answer: "PredictionResult", pixels: "np.ndarray", explained: "Explanation") -> None:
    from tenfold.evaluation import plots
    from tenfold.evaluation.explain import overlay

    label = answer.predictions[0][0]
    panels = [
        ("input", pixels),
        (f"{label}: integrated gradients", overlay(pixels, explained.saliency)),
        (f"{label}: occlusion", overlay(pixels, explained.occlusion)),
    ]
    note = f"orange: evidence for {label}, blue: against it; agreement of the two maps {explained.agreement:.2f}"
    plots.save(plots.explanation(panels, answer.predictions, Path(answer.path).name, note), path)
