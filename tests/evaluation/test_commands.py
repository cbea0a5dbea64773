"""`tenfold evaluate` and `tenfold report` on a trained run: what they answer, write and refuse."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tenfold import cli
from tenfold.training.lock import Lock
from tenfold.training.run import Run, now

VAL_SIZE = 900
Command = Callable[..., subprocess.CompletedProcess[str]]
Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def trained(command: Command, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a second, with validation images."""
    path = tmp_path_factory.mktemp("trained") / "tiny"
    options = ["--data", "shapes", "--epochs", "0.5", "--val-size", str(VAL_SIZE), "--out", path, "--json"]
    result = command("train", "--recipe", tiny_recipe, *options, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stderr
    return path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Invoke:
    """Run the command within this process: exit code, standard output, standard error."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tenfold", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code
        return (code if isinstance(code, int) else 0, *capsys.readouterr())

    return call


def answer(result: tuple[int, str, str]) -> dict[str, Any]:
    code, out, err = result
    assert code == 0, err
    return json.loads(out)  # type: ignore[no-any-return]


def test_evaluate_answers_and_writes_the_same(invoke: Invoke, run: Path) -> None:
    before = json.loads((run / "results.json").read_text())
    said = answer(invoke("evaluate", run, "--json"))
    results = json.loads((run / "results.json").read_text())
    assert results.items() <= said.items() and results["train_seconds"] == before["train_seconds"]
    assert said.keys() - results.keys() == {"per_class", "confusion_matrix", "reliability"}
    assert [row["class"] for row in said["per_class"][-3:]] == ["accuracy", "macro avg", "weighted avg"]
    assert sum(map(sum, said["confusion_matrix"])) == sum(said["reliability"]["images"]) == said["test_images"]
    assert said["calibration"]["images"] == VAL_SIZE and said["val_accuracy"] == before["val_accuracy"]
    assert {"ece", "ece_single_view", "calibration", "test_accuracy_top5"} <= said.keys()
    frame = pd.read_csv(run / "predictions.csv")
    assert list(frame) == ["index", "true", "predicted", "probability", "margin", "loss", "correct"]
    assert frame["correct"].mean() == pytest.approx(said["test_accuracy"])
    Run.open(run).verify()


def test_evaluate_on_other_data_leaves_the_run_alone(
    invoke: Invoke, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tenfold.data.shapes import make_shapes

    other = make_shapes(seed=5, train=1, test=40)
    monkeypatch.setattr("tenfold.training.train.load", lambda name: other)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and not path.name.startswith(".")}
    table = run.parent / "mine.csv"
    said = answer(invoke("evaluate", run, "--data", "other", "--predictions", table, "--json"))
    assert said["test_images"] == 40 == len(pd.read_csv(table))
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and not path.name.startswith(".")}
    assert after == before


def test_evaluate_for_people_names_what_is_mistaken(invoke: Invoke, run: Path) -> None:
    code, out, _ = invoke("evaluate", run)
    lines = out.splitlines()
    assert code == 0 and lines[0].startswith("test accuracy ") and lines[-1].startswith("most often mistaken: ")
    assert any(line.startswith("calibration error ") for line in lines)


@pytest.mark.parametrize("verb", ["evaluate", "report"])
@pytest.mark.parametrize(
    ("state", "code", "said"),
    [
        ("in use", 6, "is in use by process"),
        ("unfinished", 4, "with tenfold train --resume"),
        ("damaged", 4, "is damaged"),
        ("absent", 4, "is not a run directory"),
    ],
)
def test_what_is_no_finished_run_is_one_line(
    invoke: Invoke, run: Path, verb: str, state: str, code: int, said: str
) -> None:
    lock = Lock(run)
    if state == "in use":
        lock.acquire(now())
    elif state == "unfinished":
        (run / "manifest.json").unlink()
    elif state == "damaged":
        for name in ("model.safetensors", "predictions.csv"):
            content = (run / name).read_bytes()
            (run / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        shutil.rmtree(run)
    returned, out, err = invoke(verb, run)
    lock.release() if state == "in use" else None
    assert (returned, out) == (code, "") and said in err.splitlines()[-1]
    assert "Traceback" not in err


def test_data_of_other_classes_are_one_line(invoke: Invoke, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from tenfold.data.shapes import make_shapes

    other = make_shapes(train=1, test=40)
    monkeypatch.setattr(
        "tenfold.training.train.load", lambda name: replace(other, classes=(*other.classes[:9], "blob"), name="mine")
    )
    code, out, err = invoke("evaluate", run, "--data", "mine")
    assert (code, out) == (3, "") and err.startswith("tenfold: mine has other classes than ")
