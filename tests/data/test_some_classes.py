"""Scoring a run on a folder that holds some of its classes only."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tenfold.data.shapes import make_shapes
from tests.support.images import save
from tests.support.process import Invoke

SHAPES = make_shapes(0, 80, 1).train.images

SCORES = ("precision", "recall", "f1", "recall_low", "recall_high")


def write(folder: Path, count: int, first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        (folder / f"{number}.png").write_bytes(save(SHAPES[number], "PNG"))


@pytest.fixture(scope="module")
def run(invoke: Invoke, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Trained on three classes; `solo` has a single image to train on, and so none to test on."""
    root = tmp_path_factory.mktemp("classes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENFOLD_HOME", str(root / "home"))
        write(root / "mine" / "a", 20)
        write(root / "mine" / "b", 20, 20)
        write(root / "mine" / "solo", 1, 40)
        words = ("train", "--recipe", tiny_recipe, "--data", root / "mine", "--epochs", "2", "--out", root / "run")
        said = invoke(*words)
        assert said.returncode == 0, said.stderr
        assert "No test images of solo: left out of the macro average" in said.stdout
        yield root / "run"


def test_one_class_is_enough_to_score_on(invoke: Invoke, run: Path, tmp_path: Path) -> None:
    """Here all images are of class b, one of them unreadable, and the folder of class a is empty."""
    write(tmp_path / "more" / "b", 8, 50)
    (tmp_path / "more" / "b" / "bad.png").write_bytes(b"")
    (tmp_path / "more" / "a").mkdir()
    words = ("evaluate", run, "--data", tmp_path / "more", "--predictions", tmp_path / "it.csv", "--json")
    said = invoke(*words)
    assert said.returncode == 0, said.stderr
    answer: dict[str, Any] = json.loads(said.stdout)
    rows = {row["class"]: row for row in answer["per_class"]}
    recall = answer["test_accuracy"]
    assert (answer["test_images"], answer["skipped_images"], answer["absent_classes"]) == (8, 1, ["a", "solo"])
    assert rows["a"] == {"class": "a", "support": 0} | dict.fromkeys(SCORES)
    assert rows["macro avg"]["recall"] == rows["b"]["recall"] == pytest.approx(recall)
    with (tmp_path / "it.csv").open(newline="") as file:
        assert {row["true"] for row in csv.DictReader(file)} == {"b"}


def test_a_class_without_test_images_is_left_out_everywhere(run: Path) -> None:
    with (run / "per_class.csv").open(newline="") as file:
        rows = {row["class"]: row for row in csv.DictReader(file)}
    assert rows["solo"] == {"class": "solo", "support": "0"} | dict.fromkeys(SCORES, "")
    macro = (float(rows["a"]["f1"]) + float(rows["b"]["f1"])) / 2
    assert float(rows["macro avg"]["f1"]) == pytest.approx(macro, abs=1e-5)
    page = (run / "report.html").read_text()
    assert '<th scope="row">solo</th><td>–</td><td>–</td><td>–</td><td>–</td><td>0</td>' in page
    assert "No test images of solo: left out of the macro average." in page


def test_a_class_that_the_model_does_not_know_is_named(invoke: Invoke, run: Path, tmp_path: Path) -> None:
    write(tmp_path / "more" / "comet", 4)
    said = invoke("evaluate", run, "--data", tmp_path / "more")
    assert said.returncode == 3
    assert said.stderr.endswith(
        f"more/ has other classes than {run} was trained on: a, b, solo; not among them: comet\n"
    )


def test_an_empty_folder_that_is_no_class_is_left_out(invoke: Invoke, run: Path, tmp_path: Path) -> None:
    """And the images of a class may lie in folders, of whatever names."""
    write(tmp_path / "more" / "b" / "2019", 4, 50)
    write(tmp_path / "more" / "b" / "2020", 4, 60)
    (tmp_path / "more" / "comet").mkdir()
    said = invoke("evaluate", run, "--data", tmp_path / "more", "--json")
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["test_images"] == 8
    assert "comet holds no image and is no class of the model: left out" in said.stderr


def test_a_folder_without_any_class_or_image_is_one_line(invoke: Invoke, run: Path, tmp_path: Path) -> None:
    (tmp_path / "more" / "a").mkdir(parents=True)
    said = invoke("evaluate", run, "--data", tmp_path / "more")
    assert said.returncode == 3 and said.stderr == f"tenfold: {tmp_path}/more holds no image that can be read\n"
    (tmp_path / "more" / "a").rmdir()
    said = invoke("evaluate", run, "--data", tmp_path / "more")
    assert said.returncode == 3 and "has 0 class folders instead of 1 to 1,000" in said.stderr
