"""How predictions are written: as a table, JSON Lines or CSV, and read back to resume."""

import csv
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tenfold.console import percent, printable
from tenfold.files import parse_object
from tenfold.serving.predict import REJECTED, PredictionResult


@dataclass(frozen=True)
class OutputFormat:
    """A way to write answers. header: the first line, or none; write: a line of an answer, without its end.

    read: the path and whether there was an error, from such a line; raises `ValueError`.
    """

    header: str | None
    write: Callable[[PredictionResult], str]
    read: Callable[[str], tuple[str, bool]]


def make_output_format(name: str, classes: tuple[str, ...], top: int, has_distance: bool = False) -> OutputFormat:
    """The form of that name: `table`, `json` (JSON Lines) or `csv`, for `top` predictions an answer.

    has_distance: whether answers say it, for two more columns in `csv`.
    """
    top = min(top, len(classes))
    if name == "json":
        return OutputFormat(None, _to_json, _from_json)
    if name == "csv":
        more = [f"{column}_{rank}" for rank in range(2, top + 1) for column in ("label", "probability")]
        distance = ["distance", "rejected_by"] if has_distance else []
        header = ["path", "label", "probability", *more, *distance, "error"]
        return OutputFormat(_to_csv(header), lambda answer: _to_csv(_cells(answer, top, has_distance)), _from_csv)
    width = max(len(printable(label)) for label in (*classes, REJECTED, "prediction"))
    titles = [f"{'prediction':{width}}  {'confidence':>10}"] * top
    return OutputFormat("  ".join([*titles, "path"]), lambda answer: _to_row(answer, top, width), _no_reading)


def _to_json(answer: PredictionResult) -> str:
    return json.dumps(answer.to_dict())  # in ASCII: names may hold anything


def _from_json(line: str) -> tuple[str, bool]:
    fields = parse_object(line.encode())
    if not isinstance(fields.get("path"), str):
        raise ValueError("no path")
    return fields["path"], "error" in fields


def _to_csv(cells: Iterable[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


def _cells(answer: PredictionResult, top: int, has_distance: bool) -> list[object]:
    if answer.error is not None:
        return [printable(answer.path), *[""] * 2 * (top + has_distance), printable(answer.error)]
    flat = [cell for label, probability in answer.predictions for cell in (printable(label), f"{probability:.6f}")]
    distance = [f"{answer.distance:.6g}", " ".join(answer.rejected_by)] if has_distance else []
    return [printable(answer.path), *([REJECTED, *flat[1:]] if answer.rejected else flat), *distance, ""]


def _from_csv(line: str) -> tuple[str, bool]:
    cells = next(csv.reader([line], strict=True), [])
    if len(cells) < 4:
        raise ValueError("too few cells")
    return cells[0], cells[-1] != ""


def _to_row(answer: PredictionResult, top: int, width: int) -> str:
    """A row of the table; unreadable images stand in it too, so that none is missed."""
    predictions = [(printable(label), percent(probability, 2, "%")) for label, probability in answer.predictions]
    if answer.error is not None:
        predictions = [("–", "")] * top
    elif answer.rejected:
        predictions[0] = (REJECTED, predictions[0][1])
    return "  ".join([*(f"{label:{width}}  {share:>10}" for label, share in predictions), printable(answer.path)])


def _no_reading(line: str) -> tuple[str, bool]:
    raise ValueError("a table cannot be resumed")
