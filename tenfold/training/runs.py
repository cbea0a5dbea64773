"""Many run directories: what is in a folder, and how two of them differ. Reads JSON only, so it needs no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tenfold.errors import BusyError, ModelError, StorageError, UsageError, did_you_mean
from tenfold.files import parse_object
from tenfold.training.lock import LOCK, Lock

T = TypeVar("T")
SORTS = ("date", "accuracy", "seconds", "name")


@dataclass(frozen=True)
class Row:
    """A run in a list. accuracy in [0, 1] and seconds only where it is finished; date in UTC, ISO 8601."""

    run: str
    recipe: str
    data: str
    seed: int | None
    accuracy: float | None
    seconds: float | None
    date: str
    state: str


def list_runs(folder: Path, sort: str = "date") -> list[Row]:
    """List the runs below `folder`, at any depth, best or newest first. Raises `UsageError` for an unknown sort."""
    keys = {
        "date": lambda row: row.date,
        "accuracy": lambda row: row.accuracy or 0.0,
        "seconds": lambda row: -(row.seconds or float("inf")),
        "name": lambda row: "",
    }
    if sort not in keys:
        raise UsageError(f"cannot sort by {sort!r}: choose {', '.join(SORTS)}{did_you_mean(sort, SORTS)}")
    rows = [_row(path.parent) for path in sorted(folder.rglob("recipe.json")) if not _hidden(path.relative_to(folder))]
    return sorted(rows, key=keys[sort], reverse=sort != "name")


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _row(path: Path) -> Row:
    try:
        recipe, env, results = (_read(path / name) for name in ("recipe.json", "env.json", "results.json"))
        return Row(
            run=str(path),
            recipe=_typed(recipe, "name", str),
            data=_typed(env, "data", str),
            seed=_typed(env, "seed", int),
            accuracy=_typed(results, "test_accuracy", float) if results else None,
            seconds=_typed(results, "total_seconds", float) if results else None,
            date=_typed(env, "started", str),
            state="finished" if results else "running" if is_owned(path) else "unfinished",
        )
    except ModelError:
        return Row(str(path), "?", "?", None, None, None, "", "damaged")


def _typed(value: dict[str, Any], key: str, kind: type[T]) -> T:
    found = value.get(key)
    if kind is float and isinstance(found, int):
        found = float(found)
    if not isinstance(found, kind):
        raise ModelError(f"{key} is missing or of the wrong type")
    return found


def is_owned(path: Path) -> bool:
    """Whether a process works on this run now."""
    if not (path / LOCK).exists():
        return False
    try:
        Lock(path).check()
    except BusyError:
        return True
    except StorageError:  # another user's, who alone could tell
        return False
    return False


def compare_runs(first: Path, second: Path) -> dict[str, tuple[Any, Any]]:
    """Every field of recipe, environment and results in which two runs differ, by dotted name.

    Raises `ModelError` where one is no run directory or is damaged.
    """
    a, b = _fields(first), _fields(second)
    return {name: (a.get(name), b.get(name)) for name in {**a, **b} if a.get(name) != b.get(name)}


def _fields(path: Path) -> dict[str, Any]:
    if not (path / "recipe.json").is_file():
        raise ModelError(f"{path} is not a run directory: it has no recipe.json")
    fields: dict[str, Any] = {}
    for part in ("recipe", "env", "results"):
        fields |= _flatten(_read(path / f"{part}.json"), part)
    return fields


def _flatten(value: Any, name: str) -> dict[str, Any]:
    if isinstance(value, list):
        value = {str(index): item for index, item in enumerate(value)}
    if not isinstance(value, dict):
        return {name: value}
    return {key: item for child, content in value.items() for key, item in _flatten(content, f"{name}.{child}").items()}


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON object, {} where there is no such file. Raises `ModelError` where it is damaged."""
    try:
        return parse_object(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged: {error}") from error
