"""`tenfold evaluate`, `report` and `compare` on runs: what they answer, write and refuse."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tenfold.data.shapes import make_shapes
from tenfold.training.lock import Lock, now
from tenfold.training.run import Run
from tests.support.drawn_run import RECIPE, draw_logits, make_drawn_run
from tests.support.few_shapes import few_shapes
from tests.support.process import Invoke


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "drawn"
    make_drawn_run(path, few_shapes(), report=False)
    return path


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture
def drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's data, drawn when the test begins, not each time they are loaded."""
    monkeypatch.setattr("tenfold.training.provenance.load_named", {"shapes": few_shapes()}.__getitem__)


def answer(result: tuple[int, str, str]) -> dict[str, Any]:
    code, out, err = result
    assert code == 0, err
    return json.loads(out)  # type: ignore[no-any-return]


@pytest.mark.slow
def test_a_target_error_is_fitted_again_and_kept(invoke: Invoke, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the logits that the run keeps. Only 1 % could be asked for, which these 700 images show of no threshold."""
    before = answer(invoke("evaluate", run, "--json"))["calibration"]
    assert (before["target_error"], before["images"], before["images_needed"]) == (0.01, 700, 597)
    assert before["threshold"] is None
    looser = answer(invoke("evaluate", run, "--target-error", "0.5", "--json"))["calibration"]
    assert (looser["target_error"], looser["images_needed"]) == (0.5, 9)
    assert json.loads((run / "results.json").read_text())["calibration"] == looser
    assert answer(invoke("evaluate", run, "--json"))["calibration"] == looser, "what was asked for stays"
    stricter = answer(invoke("evaluate", run, "--target-error", "0.4", "--data", "shapes", "--json"))["calibration"]
    assert stricter["target_error"] == 0.4, "they are its own data"
    assert json.loads((run / "results.json").read_text())["calibration"] == stricter
    assert invoke("report", run)[0] == 0 and "--target-error 0.4" in (run / "report.html").read_text()
    other = make_shapes(seed=5, train=1, test=40)
    monkeypatch.setattr("tenfold.training.provenance.load", lambda name, **_: other)
    code, out, err = invoke("evaluate", run, "--target-error", "0.05", "--data", "shapes")
    assert (code, out) == (2, "") and "leave it out with other data (shapes)" in err
    assert invoke("evaluate", run, "--target-error", "0")[0] == 2
    monkeypatch.setenv("TENFOLD_TARGET_ERROR", "0.05")  # does not concern other data
    scores = answer(invoke("evaluate", run, "--data", "shapes", "--json"))
    assert scores["test_images"] == 40 and scores["calibration"]["target_error"] == 0.4


def test_a_target_error_is_refused_with_another_folder(invoke: Invoke, run: Path, tmp_path: Path) -> None:
    """It was left out of account without a word."""
    shapes = make_shapes(seed=5, train=1, test=40)
    for image, label in zip(shapes.test.images, shapes.test.labels, strict=True):
        folder = tmp_path / "photos" / shapes.classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{len(list(folder.iterdir()))}.png")
    code, out, err = invoke("evaluate", run, "--target-error", "0.05", "--data", tmp_path / "photos")
    assert (code, out) == (2, "") and "leave it out with other data (photos/)" in err


@pytest.mark.usefixtures("drawn_once")
@pytest.mark.parametrize("verb", ["evaluate", "report"])
def test_scoring_on_another_machine_keeps_the_calibration(
    invoke: Invoke, run: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Another number format rounds otherwise: fitted again, the exported file would have an old calibration."""
    before = json.loads((run / "results.json").read_text())
    monkeypatch.setattr("tenfold.evaluation.outputs.torch.__version__", "9.9.9")  # so that kept logits are not used
    monkeypatch.setattr(
        "tenfold.evaluation.outputs.logits_for",
        lambda recipe: lambda network, images, *more, **named: draw_logits(np.arange(len(images)) % 10, 10, 9),
    )
    code, _, err = invoke(verb, run)
    after = json.loads((run / "results.json").read_text())
    assert code == 0 and after["test_accuracy"] != before["test_accuracy"], err
    kept = ("temperature", "threshold", "target_error", "confidence", "images", "wrong", "fitted")
    assert [after["calibration"][name] for name in kept] == [before["calibration"][name] for name in kept]


@pytest.mark.usefixtures("drawn_once")
@pytest.mark.parametrize("verb", ["evaluate", "report"])
def test_scores_do_not_need_the_model_file(invoke: Invoke, run: Path, verb: str) -> None:
    Run.open(run).rewrite_in_manifest({"model.onnx": b"sound"})
    (run / "model.onnx").write_bytes(b"flipped")
    code, _, err = invoke(verb, run)
    assert code == 0 and f"model.onnx is damaged: write it again with tenfold export {run}" in err.replace("\n", "")


def test_evaluate_answers_and_writes_the_same(invoke: Invoke, run: Path) -> None:
    before = json.loads((run / "results.json").read_text())
    said = answer(invoke("evaluate", run, "--json"))
    results = json.loads((run / "results.json").read_text())
    assert results.items() <= said.items() and results["train_seconds"] == before["train_seconds"]
    assert said.keys() - results.keys() == {"per_class", "absent_classes", "confusion_matrix", "reliability"}
    assert [row["class"] for row in said["per_class"][-3:]] == ["accuracy", "macro avg", "weighted avg"]
    assert sum(map(sum, said["confusion_matrix"])) == sum(said["reliability"]["images"]) == said["test_images"]
    assert said["calibration"]["images"] == RECIPE.val_size
    assert {"ece", "ece_single_view", "calibration", "test_accuracy_top5"} <= said.keys()
    frame = pd.read_csv(run / "predictions.csv")
    assert list(frame) == ["index", "true", "predicted", "probability", "margin", "loss", "correct"]
    assert frame["correct"].mean() == pytest.approx(said["test_accuracy"])
    Run.open(run).verify()


def test_evaluate_on_other_data_leaves_the_run_alone(
    invoke: Invoke, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_shapes(seed=5, train=1, test=40)
    monkeypatch.setattr("tenfold.training.provenance.load", lambda name, **_: other)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and not path.name.startswith(".")}
    table = run.parent / "mine.csv"
    said = answer(invoke("evaluate", run, "--data", "other", "--predictions", table, "--json"))
    assert said["test_images"] == 40 == len(pd.read_csv(table))
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and not path.name.startswith(".")}
    assert after == before


def test_evaluate_for_people_names_what_is_mistaken(invoke: Invoke, run: Path) -> None:
    code, out, _ = invoke("evaluate", run)
    lines = out.splitlines()
    assert code == 0 and lines[0].startswith("test accuracy ") and lines[-1].startswith("top confusions: ")
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

    other = make_shapes(train=1, test=40)
    monkeypatch.setattr(
        "tenfold.training.provenance.load",
        lambda name, **_: replace(other, classes=(*other.classes[:9], "blob"), name="mine"),
    )
    code, out, err = invoke("evaluate", run, "--data", "mine")
    assert (code, out) == (3, "") and err.startswith("tenfold: mine has other classes than ")


@pytest.mark.slow
def test_one_run_gets_a_report_and_two_a_comparison(invoke: Invoke, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    code, out, _ = invoke("report", run)
    assert code == 0 and out.splitlines()[-1] == str(run / "report.html")
    Run.open(run).verify()
    other = shutil.copytree(run, run.parent / "other")
    assert invoke("compare", run, other) == (0, "comparison.html\n", "")
    assert "2 runs compared" in Path("comparison.html").read_text()
    assert invoke("compare", run, other, "--out", "mine.html")[1] == "mine.html\n"
    code, out, err = invoke("report", run, "--out", "mine.html")
    assert (code, out) == (2, "") and err.startswith("tenfold: No such option: --out")
