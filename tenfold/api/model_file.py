"""A run → its model file: exported on request, or at the first use. Needs torch only where a file is written."""

from pathlib import Path
from typing import TYPE_CHECKING

from tenfold import extras
from tenfold.console import log_info
from tenfold.errors import StorageError, TenfoldError, UsageError

if TYPE_CHECKING:
    from tenfold.data import Dataset
    from tenfold.serving.export import Int8
    from tenfold.serving.source import Exported
    from tenfold.training.provenance import FoundData
    from tenfold.training.run import Run as RunDirectory


def export(
    run: "Path | RunDirectory",
    to: str = "onnx",
    out: Path | None = None,
    *,
    int8: "Int8" = "off",
    card: bool = False,
    data: "Dataset | Path | FoundData | None" = None,
) -> "Exported":
    """Write the model of a trained run in a registered format, checked against the network before it is kept.

    out: by default the format's file in the run directory. int8: on, off, or auto (where it is faster here). card:
    write a model card beside it. data: images to check it on, by default the run's own; without any, synthetic ones do.
    Raises `UsageError` for options that do not go together, and as `serving.export.export`.
    """
    extras.require("train", extras.ONNX)
    from tenfold.serving.exporters import EXPORTERS
    from tenfold.training.provenance import find_data
    from tenfold.training.run import Run

    exporter = EXPORTERS.find(to)()
    for option, given in (("int8", int8 != "off"), ("card", card)):
        if given and option not in exporter.options:
            raise UsageError(f"--{option} is not for --to {to}: leave it out")
    extras.require(*exporter.extra)
    if out and exporter.suffix and out.suffix != exporter.suffix:
        raise UsageError(f"--out {out}: its name must end in {exporter.suffix}, or {to.capitalize()} will not open it")
    opened, found = run if isinstance(run, Run) else Run.open(run), data
    if "card" in exporter.options:
        found = find_data(opened, data)  # once, for the file and its card: a folder takes its time
    exported = exporter.export(opened, out, int8, found)
    if "card" in exporter.options:
        _write_card(opened, Path(exported.path), card, found)
    return exported


def _write_card(run: "RunDirectory", file: Path, wanted: bool, found: "Dataset | Path | FoundData | None") -> None:
    from tenfold.serving.card import has_card, write_card

    if wanted or has_card(file):  # an older card would describe a file that is gone
        log_info(f"card: {write_card(run, file, found)}")


def ensure_model_file(model: "Path | RunDirectory | None") -> Path:
    """The file to open; a run's is written first where it has none, or one of earlier scores, which needs torch."""
    from tenfold.serving.model_file import find_in_run
    from tenfold.serving.predictor import BUNDLED

    if model is None:
        return BUNDLED
    path = model if isinstance(model, Path) else model.path
    if not path.is_dir():
        return path
    file = find_in_run(path)
    if file and file.is_current:
        return file.path
    try:
        return _export_run(model, path)
    except TenfoldError as error:
        if file is None:
            raise
        log_info(
            f"{file.path} is used as it is, with the calibration (temperature and threshold) of earlier scores; "
            f"it cannot be written again: {error}"
        )
        return file.path


def _export_run(run: "Path | RunDirectory", path: Path) -> Path:
    """Write the model file of a run. Raises `UsageError` without torch, `StorageError`, and as `export` does."""
    try:
        extras.require("train", extras.ONNX)
    except UsageError as error:
        raise UsageError(
            f"{path} is to be exported first: {error}; or run tenfold export where it was trained"
        ) from None
    log_info(f"{path}: its model is written as ONNX, once")
    try:
        return Path(export(run).path)
    except StorageError as error:
        elsewhere = f"tenfold export {path} --out FILE.onnx writes it elsewhere, then use --model FILE.onnx"
        raise StorageError(f"{error}; {elsewhere}") from error


def note_stale_model(run: Path) -> None:
    """Log where a run's model file has the calibration of earlier scores."""
    from tenfold.errors import ModelError
    from tenfold.serving.model_file import find_in_run

    try:
        file = find_in_run(run)
    except ModelError as error:  # scores do not need that file
        log_info(str(error))
        return
    if file and not file.is_current:
        log_info(f"{file.path} has the calibration of earlier scores: predict, serve and export write it again")
