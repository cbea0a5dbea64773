"""tenfold audit."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tenfold import extras
from tenfold.cli.app import Device, Json, RunPath, app, print_accuracy, print_json
from tenfold.cli.evaluation import MovedFolder, note_stale_model, refuse_busy

if TYPE_CHECKING:
    from tenfold.data import Dataset
    from tenfold.evaluation.evaluate import Evaluation
    from tenfold.training.device import DeviceConfig
    from tenfold.training.run import Run

Full = Annotated[bool, typer.Option("--full", help="Corrupt all test images, not the first 1,000.")]


@app.command()
def audit(
    run: RunPath,
    data: MovedFolder = None,
    full: Full = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Audit a run's test accuracy: train–test duplicates, corruptions, label issues, saliency, seed variance.

    Takes some minutes; results are kept in the run directory and shown in its report.
    """
    extras.require("train", extras.AUDIT)
    refuse_busy(run)
    from tenfold.evaluation import evaluate as evaluation
    from tenfold.training.device import select_device
    from tenfold.training.provenance import reload_dataset
    from tenfold.training.run import Run

    opened, plan = Run.open(run), select_device(device)
    in_python = "tenfold.evaluation.audit.run_audit(Subject(run, dataset, tenfold.evaluate(run, dataset)), plan)"
    dataset = reload_dataset(opened, data, in_python)
    with opened.locked():
        evaluated = evaluation.evaluate(opened, dataset, plan)
        scores = evaluation.rewrite_scores(opened, evaluated)
        note_stale_model(opened)
        panel = _audit(opened, dataset, evaluated, plan, full)
    if as_json:
        print_json(scores | {"audit": panel})
        return
    print_accuracy(scores)
    _print_panel(opened, panel)


def _audit(run: "Run", dataset: "Dataset", evaluated: "Evaluation", plan: "DeviceConfig", full: bool) -> dict[str, Any]:
    """All parts of the audit; where the run's page does not show them yet, it is written again."""
    from tenfold.evaluation.audit import Subject, changed, run_audit
    from tenfold.evaluation.report import REPORT, write_report

    panel, new = run_audit(Subject(run, dataset, evaluated), plan, full)
    page = run.path / REPORT
    # an interrupted call may have left a part that is not new, but not on the page either
    if new or not page.is_file() or page.stat().st_mtime < changed(run):
        write_report(run, dataset, evaluated)
    return panel


def _print_panel(run: "Run", panel: dict[str, Any]) -> None:
    from tenfold.evaluation.audit import format_audit
    from tenfold.evaluation.report import REPORT

    for sentence in format_audit(panel):
        print(sentence)
    print(f"images and tables: {run.path / REPORT}#audit")
