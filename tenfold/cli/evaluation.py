"""tenfold evaluate, tenfold report."""

from pathlib import Path
from typing import Annotated

import typer

from tenfold.cli.app import TRAIN_EXTRA, Device, Json, RunPath, app, print_accuracy, print_json, require_extra
from tenfold.errors import UsageError


@app.command()
def evaluate(
    run: RunPath,
    data: Annotated[
        str | None, typer.Option(help="Score on the test images of other data; the run then stays as it is.")
    ] = None,
    predictions: Annotated[Path | None, typer.Option(help="CSV to write, with a row an image.")] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Score a trained run on its test images again: class by class, and how far its certainty can be trusted."""
    require_extra("train", TRAIN_EXTRA)
    _refuse_busy(run)
    from tenfold.evaluation import evaluate as evaluation
    from tenfold.evaluation import metrics
    from tenfold.files import write_text
    from tenfold.training.device import make_plan
    from tenfold.training.run import Run
    from tenfold.training.train import dataset_of, other_data

    opened = Run.open(run)
    with opened.locked():
        dataset, own = (dataset_of(opened), True) if data is None else other_data(opened, data)
        evaluated = evaluation.evaluate(opened, dataset, make_plan(device), own=own)
        scores = evaluation.rewrite_scores(opened, evaluated) if own else evaluated.scores | {"data": dataset.name}
    if predictions:
        write_text(predictions, evaluation.to_csv(evaluated.predictions()))
    if as_json:
        print_json(scores | evaluated.details())
        return
    print_accuracy(scores)
    print(metrics.format_per_class(evaluated.per_class()))
    print(metrics.format_confusions(metrics.top_confusions(evaluated.confusion_matrix()), evaluated.classes))


def _refuse_busy(run: Path) -> None:
    """Raise `BusyError` for a run in use, before torch is loaded."""
    from tenfold.training.lock import Lock

    if (run / "recipe.json").is_file():
        Lock(run).check()


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN [RUN…]", help="A run directory, or several to compare.")],
    out: Annotated[Path | None, typer.Option(help="Where several runs' page goes, by default comparison.html.")] = None,
    device: Device = "auto",
) -> None:
    """Draw a scored run's pictures and its page, report.html, again; or put several runs side by side on one page."""
    require_extra("train", TRAIN_EXTRA)
    if len(runs) == 1 and out:
        raise UsageError("--out is for comparing several runs: a run's own page lies in its directory")
    for run in runs:
        _refuse_busy(run)
    if len(runs) > 1:
        from tenfold.evaluation.compare import write_comparison

        print(write_comparison(runs, out or Path("comparison.html")))
        return
    for path in _report_run(runs[0], device):
        print(path)


def _report_run(run: Path, device: str) -> list[Path]:
    from tenfold.evaluation.evaluate import evaluate as score
    from tenfold.evaluation.evaluate import rewrite_scores
    from tenfold.evaluation.report import write_report
    from tenfold.training.device import make_plan
    from tenfold.training.run import Run
    from tenfold.training.train import dataset_of

    opened = Run.open(run)
    with opened.locked():
        opened.require_scores()
        dataset = dataset_of(opened)
        evaluation = score(opened, dataset, make_plan(device))
        rewrite_scores(opened, evaluation)
        return write_report(opened, dataset, evaluation)
