"""tenfold audit."""

from typing import TYPE_CHECKING, Annotated

import typer

from tenfold import extras
from tenfold.cli.app import Device, Json, RunPath, app, print_accuracy, print_json
from tenfold.cli.evaluation import MovedFolder, refuse_busy

if TYPE_CHECKING:
    from tenfold.evaluation.findings import Audit
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
    found = opened.audit(full=full, data=data, device=device)
    scores = opened.require_scores()
    if as_json:
        print_json(scores | {"audit": found.to_dict()})
        return
    print_accuracy(scores)
    _print_audit(opened, found)


def _print_audit(run: "Run", found: "Audit") -> None:
    from tenfold.evaluation.findings import format_audit
    from tenfold.evaluation.report import REPORT

    for sentence in format_audit(found):
        print(sentence)
    print(f"images and tables: {run.path / REPORT}#audit")
