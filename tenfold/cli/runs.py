"""tenfold runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tenfold.cli.app import RUNS, Json, app, print_json, print_table
from tenfold.console import percent
from tenfold.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenfold.training.runs import Row


@app.command("runs")
def list_runs(
    pair: Annotated[list[Path] | None, typer.Argument(metavar="[RUN RUN]", help="Two runs to compare.")] = None,
    folder: Annotated[Path, typer.Option(help="Where the runs are.")] = RUNS,
    sort: Annotated[str, typer.Option(help="date, accuracy, seconds or name.")] = "date",
    as_json: Json = False,
) -> None:
    """List the runs of a folder, or show field by field how two runs differ."""
    from tenfold.training import runs

    if not pair:
        _print_runs(runs.list_runs(folder, sort), as_json)
        return
    if len(pair) != 2:
        raise UsageError("two runs can be compared: name none to list all, or two")
    first, second = pair
    _print_differences(first, second, runs.compare_runs(first, second), as_json)


def _print_differences(a: Path, b: Path, differences: dict[str, tuple[Any, Any]], as_json: bool) -> None:
    if as_json:
        print_json({"a": str(a), "b": str(b), "differences": differences})
    else:
        rows = [(name, _cell(first), _cell(second)) for name, (first, second) in differences.items()]
        print_table(("field", str(a), str(b)), rows)


def _print_runs(rows: "Sequence[Row]", as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print_json({"runs": [asdict(row) for row in rows]})
    else:
        cells = [asdict(row) | _formatted(row) for row in rows]
        header = ("run", "recipe", "data", "seed", "accuracy", "seconds", "date", "state")
        shown = [{"date": "date (UTC)"}.get(name, name) for name in header]
        print_table(shown, [[_cell(row[name]) for name in header] for row in cells])


def _formatted(row: "Row") -> dict[str, str]:
    accuracy = "" if row.accuracy is None else percent(row.accuracy, 2, "%")
    seconds = "" if row.seconds is None else f"{row.seconds:,.1f}"
    seed = "" if row.seed is None else str(row.seed)
    return {"seed": seed, "accuracy": accuracy, "seconds": seconds, "date": row.date[:16].replace("T", " ")}


def _cell(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
