"""tenfold evaluate, report, compare, explain."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tenfold import extras
from tenfold.cli.app import (
    Device,
    Json,
    LabelColumns,
    RunPath,
    TargetError,
    app,
    is_given,
    print_accuracy,
    print_json,
)
from tenfold.console import log_info, percent, plural, printable
from tenfold.errors import DataError, ImageError, SkippedError, UsageError

if TYPE_CHECKING:
    from tenfold.data import Dataset, LabelFile
    from tenfold.evaluation.evaluate import Evaluation
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
ScoredLabels = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Score on the images that a label file names, in the folder of --data or beside it.",
    ),
]
MovedFolder = Annotated[Path | None, typer.Option(help="Where the run's folder of images is now, if it moved.")]
Predictions = Annotated[Path | None, typer.Option(help="CSV to write, with a row an image.")]


@app.command()
def evaluate(
    context: typer.Context,
    run: RunPath,
    data: ScoredData = None,
    labels: ScoredLabels = None,
    label_columns: LabelColumns = "",
    skip_bad: SkipBadIn = None,
    predictions: Predictions = None,
    target_error: TargetError = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Score a trained run on its test images: accuracy, per-class metrics, calibration."""
    extras.require("train", extras.TRAIN)
    if data is None and labels is None:
        refuse_busy(run)
    from tenfold.api.run import Run
    from tenfold.data import as_label_file, folder_of
    from tenfold.evaluation.evaluate import check_data, to_csv
    from tenfold.files import write_text

    opened = Run.open(run)
    source = as_label_file(labels, label_columns)
    data = folder_of(source, data) if source else data
    dataset = _load_data(opened, data, skip_bad, source)
    found = check_data(opened, dataset) if dataset else None
    other = found is not None and not found.own
    if other and not is_given(context, "target_error", by=("COMMANDLINE",)):
        target_error = None  # a variable is for all commands that it concerns
    evaluated = opened.evaluate(found, device=device, target_error=target_error)
    scores = evaluated.scores.to_dict() | {"data": dataset.name} if dataset and other else opened.require_scores()
    if predictions:
        write_text(predictions, to_csv(evaluated.predictions()))
    if as_json:
        print_json(scores | evaluated.details())
        return
    _print_scores(scores, evaluated)
    if dataset and dataset.skipped:
        print(f"skipped {plural(dataset.skipped, 'image')} of {dataset.name} that could not be read")


def _load_data(
    run: "Run", data: str | None, skip_bad: str | None, labels: "LabelFile | None" = None
) -> "Dataset | None":
    """The data to score on; None for the run's own, which `evaluate` finds, or does without."""
    from tenfold.training.provenance import other_data

    if skip_bad and not data:
        log_info(
            f"--skip-bad {skip_bad} is without effect: the run's own images are read as they were for its training"
        )
    return other_data(run, data, skip_bad, labels) if data else None


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

    for path in Run.open(run).report(data, device=device).files:
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

    print(compare_runs(runs, out, data).path)


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
    from tenfold.api.explanation import explain_each
    from tenfold.api.run import Run

    records, bad = [], 0
    for name, explained in explain_each(Run.open(run), sources, stdin=sys.stdin.buffer):
        if isinstance(explained, ImageError):
            log_info(f"{name}: {explained}")
            records.append({"path": name, "error": str(explained)})
            bad += 1
            continue
        path = explained.save(out, top)
        records.append(explained.to_dict(top) | {"png": str(path)})
        if not as_json:
            label, probability = explained.top(1)[0]
            agree = f"agreement of saliency and occlusion {explained.agreement:.2f}"
            print(printable(f"{name}: {label} {percent(probability, 2, '%')}; {agree}; {path}"))
    if as_json:
        print_json({"images": records})
    if bad:
        raise SkippedError(f"{bad:,} of {plural(len(records), 'image')} could not be read")
    if not records:
        raise DataError(f"no images in {', '.join(sources)}")
