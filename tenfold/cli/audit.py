"""tenfold audit."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tenfold import extras
from tenfold.cli.app import Device, Json, RunPath, app, print_accuracy, print_json
from tenfold.cli.evaluation import MovedFolder, refuse_busy

if TYPE_CHECKING:
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
    from tenfold.api.run import Run

    opened = Run.open(run)
    parts = opened.audit(full=full, data=data, device=device)
    scores = opened.require_scores()
    if as_json:
        print_json(scores | {"audit": parts})
        return
    print_accuracy(scores)
    _print_panel(opened, parts)


def _print_panel(run: "Run", panel: dict[str, Any]) -> None:
    from tenfold.evaluation.audit import format_audit
    from tenfold.evaluation.report import REPORT

    for sentence in format_audit(panel):
        print(sentence)
    print(f"images and tables: {run.path / REPORT}#audit")
