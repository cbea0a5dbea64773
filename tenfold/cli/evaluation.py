"""tenfold evaluate, tenfold report."""

from pathlib import Path
from typing import Annotated

import typer

from tenfold.cli.app import TRAIN_EXTRA, Device, Json, RunPath, app, print_accuracy, print_json, require_extra


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
    opened.lock()
    dataset, own = (dataset_of(opened), True) if data is None else other_data(opened, data)
    evaluated = evaluation.evaluate(opened, dataset, make_plan(device), own=own)
    scores = evaluation.rewrite_scores(opened, evaluated) if own else evaluated.scores | {"data": dataset.name}
    opened.unlock()
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
def report(run: RunPath, device: Device = "auto") -> None:
    """Draw the pictures of a scored run, and its page report.html, again."""
    require_extra("train", TRAIN_EXTRA)
    _refuse_busy(run)
    from tenfold.evaluation.evaluate import evaluate as score
    from tenfold.evaluation.evaluate import rewrite_scores
    from tenfold.evaluation.report import write_report
    from tenfold.training.device import make_plan
    from tenfold.training.run import Run
    from tenfold.training.train import dataset_of

    opened = Run.open(run)
    opened.lock()
    opened.require_scores()
    dataset = dataset_of(opened)
    evaluation = score(opened, dataset, make_plan(device))
    rewrite_scores(opened, evaluation)
    for path in write_report(opened, dataset, evaluation):
        print(path)
    opened.unlock()
