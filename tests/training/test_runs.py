"""Lists and comparisons of run directories, on directories written here by hand."""

import json
from pathlib import Path

import pytest

from tenfold.errors import ModelError, StorageError, UsageError
from tenfold.training.lock import LOCK, Lock
from tenfold.training.runs import compare_runs, list_runs
from tests.support.process import Invoke


def write_run(path: Path, recipe: str, date: str, accuracy: float | None, seconds: float = 1.0) -> Path:
    path.mkdir(parents=True)
    (path / "recipe.json").write_text(json.dumps({"name": recipe, "stages": [{"epochs": 2}]}))
    (path / "env.json").write_text(json.dumps({"data": "shapes", "seed": 3, "started": date}))
    if accuracy is not None:
        results = {"test_accuracy": accuracy, "total_seconds": seconds}
        (path / "results.json").write_text(json.dumps(results))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_run(tmp_path / "a", "r", "2026-01-02", 0.8, seconds=5)
    write_run(tmp_path / "b", "r", "2026-01-03", 0.9, seconds=9)
    write_run(tmp_path / "bench" / "c", "s", "2026-01-01", None)
    write_run(tmp_path / ".draft.partial", "r", "2026-01-09", None)
    return tmp_path


@pytest.mark.parametrize(("sort", "order"), [("date", "bac"), ("accuracy", "bac"), ("seconds", "abc"), ("name", "abc")])
def test_sorting(folder: Path, sort: str, order: str) -> None:
    assert "".join(Path(row.run).name for row in list_runs(folder, sort)) == order


def test_rows_say_what_is_known(folder: Path) -> None:
    row = list_runs(folder, "accuracy")[0]
    assert (row.recipe, row.data, row.seed, row.accuracy, row.seconds, row.state) == (
        "r", "shapes", 3, 0.9, 9, "finished",
    )  # fmt: skip


def test_states(folder: Path) -> None:
    def state() -> str:
        return next(row.state for row in list_runs(folder) if row.run.endswith("c"))

    assert state() == "unfinished"
    lock = Lock(folder / "bench" / "c")
    lock.acquire("now")
    assert state() == "running"
    lock.release()
    assert state() == "unfinished"
    (folder / "bench" / "c" / "recipe.json").write_text("{")
    assert state() == "damaged"


def test_a_run_that_may_not_be_written_ends_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's unfinished run ended the list with exit code 7."""
    (folder / "bench" / "c" / LOCK).touch()

    def refuse(_: Lock) -> None:
        raise StorageError("cannot write: Permission denied")

    monkeypatch.setattr(Lock, "check", refuse)
    assert "unfinished" in {row.state for row in list_runs(folder)}


def test_unknown_sort(folder: Path) -> None:
    with pytest.raises(UsageError, match="cannot sort by 'size'"):
        list_runs(folder, "size")


def test_no_folder_is_no_runs(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "none") == []


def test_comparison_names_the_fields_that_differ(folder: Path) -> None:
    assert compare_runs(folder / "a", folder / "bench" / "c") == {
        "recipe.name": ("r", "s"),
        "env.started": ("2026-01-02", "2026-01-01"),
        "results.test_accuracy": (0.8, None),
        "results.total_seconds": (5, None),
    }


def test_comparison_with_what_is_no_run(folder: Path) -> None:
    with pytest.raises(ModelError, match="not a run directory"):
        compare_runs(folder / "a", folder / "nothing")


def test_the_list_has_a_decimal_of_seconds_and_a_date_to_the_minute(invoke: Invoke, tmp_path: Path) -> None:
    """It had 1585.31 and 2026-11-29T17:58:35+00:00."""
    write_run(tmp_path / "a", "r", "2026-11-29T17:58:35+00:00", 0.88974, seconds=1585.3102)
    code, out, _ = invoke("runs", "--folder", tmp_path)
    (line,) = out.splitlines()[2:]
    assert code == 0 and line.split() == [
        str(tmp_path / "a"), "r", "shapes", "3", "88.97%", "1,585.3", "2026-11-29", "17:58", "finished"
    ]  # fmt: skip
