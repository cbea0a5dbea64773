"""tenfold export."""

from pathlib import Path
from typing import Annotated

import typer

from tenfold.cli.app import TRAIN_EXTRA, Json, RunPath, app, print_json, require_extra
from tenfold.errors import UsageError


@app.command()
def export(
    run: RunPath,
    to: Annotated[str, typer.Option(help="onnx.")] = "onnx",
    out: Annotated[Path | None, typer.Option(help="File to write, by default RUN/model.onnx.")] = None,
    int8: Annotated[str, typer.Option(help="8-bit arithmetic: on, off, or auto (where it is faster here).")] = "off",
    as_json: Json = False,
) -> None:
    """Write a trained run as one file that answers without torch, checked on real test images."""
    require_extra("train", (*TRAIN_EXTRA, "onnx"))
    if to != "onnx":
        raise UsageError(f"--to must be onnx, not {to}")
    if int8 not in ("auto", "on", "off"):
        raise UsageError(f"--int8 must be auto, on or off, not {int8}")
    from dataclasses import asdict

    from tenfold.serving.export import export as write
    from tenfold.training.run import Run

    exported = write(Run.open(run), out, int8)  # type: ignore[arg-type]
    if as_json:
        print_json(asdict(exported))
        return
    kind = "8-bit" if exported.quantized else "float32"
    print(f"{exported.path}: {kind}, {exported.bytes / 1e6:.1f} MB, for {exported.runtime}")
    print(
        f"first guess as the network's on {exported.top1_agreement:.2%} of the test images it was checked on, "
        f"probabilities within {exported.max_abs_diff:.1g}"
    )
