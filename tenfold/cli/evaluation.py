"""tenfold evaluate, tenfold report."""

from tenfold.cli.app import TRAIN_EXTRA, Device, Json, RunPath, app, print_accuracy, print_json, require_extra


@app.command()
def evaluate(run: RunPath, device: Device = "auto", as_json: Json = False) -> None:
    """Score a trained run on its test images again, class by class."""
    require_extra("train", TRAIN_EXTRA)
    from tenfold.evaluation.evaluate import evaluate as score
    from tenfold.evaluation.metrics import expected_calibration_error, format_per_class
    from tenfold.training.device import make_plan
    from tenfold.training.run import Run
    from tenfold.training.train import dataset_of

    opened = Run.open(run)
    evaluation = score(opened, dataset_of(opened), make_plan(device))
    per_class = evaluation.per_class()
    if as_json:
        ece = expected_calibration_error(evaluation.logits, evaluation.labels)
        earlier = opened.require_scores() if opened.scored else {}
        rows = per_class.reset_index().to_dict("records")
        print_json(earlier | evaluation.scores | {"ece": ece, "per_class": rows})
        return
    print_accuracy(evaluation.scores)
    print(format_per_class(per_class))


@app.command()
def report(run: RunPath) -> None:
    """Draw the pictures of a scored run again."""
    require_extra("train", TRAIN_EXTRA)
    from tenfold.evaluation.report import draw_plots
    from tenfold.training.run import Run
    from tenfold.training.train import dataset_of

    opened = Run.open(run)
    opened.lock()
    for picture in draw_plots(opened, dataset_of(opened)):
        print(picture)
    opened.unlock()
