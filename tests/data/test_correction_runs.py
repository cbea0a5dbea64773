"""Runs with corrections: applied, recorded, resumed, scored, shown; of folders, label files and named data sets."""

import csv
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import tenfold
from tenfold.data.corrections import COLUMNS
from tenfold.data.shapes import make_shapes
from tenfold.serving.card import write_card
from tests.support.forks import Fork, command
from tests.support.process import Invoke
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.usefixtures("own_home"), pytest.mark.slow]
HEAD = ",".join(COLUMNS)
Train = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn shapes of three classes, a folder each."""
    root, drawn = tmp_path_factory.mktemp("data") / "photos", make_shapes(train=300, test=1)
    for number, label in enumerate(drawn.train.labels.tolist()):
        if label < 3:
            folder = root / drawn.classes[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(drawn.train.images[number]).save(folder / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def train(invoke: Invoke, tiny_recipe: Path) -> Train:
    def run(*arguments: str | Path) -> dict[str, Any]:
        words = ("train", "--recipe", tiny_recipe, "--json", "--epochs", "1", "--no-export", *arguments)
        code, out, err = invoke(*words)
        assert code == 0, err
        return json.loads(out) | {"said": err}

    return run


def rows(run: Path | str) -> list[dict[str, str]]:
    with (Path(run) / "split.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def plain(train: Train, photos: Path) -> dict[str, Any]:
    return train("--data", photos, "--out", photos.parent / "plain", "--no-report")


@pytest.fixture(scope="module")
def corrections(plain: dict[str, Any], photos: Path) -> Path:
    """Two training labels and one test label changed, a training and a test image dropped, one kept."""
    train = [row for row in rows(plain["run"]) if row["split"] == "train"]
    test = [row for row in rows(plain["run"]) if row["split"] == "test"]

    def other(row: dict[str, str]) -> str:
        return next(name for name in ("disk", "ring", "square") if name != row["class"])

    changed = [*train[:2], test[0]]
    lines = [f"{row['path']},,{row['split']},,{row['class']},relabel,{other(row)}" for row in changed]
    lines += [f"{row['path']},,{row['split']},,{row['class']},drop," for row in (train[2], test[1])]
    path = photos.parent / "corrections.csv"
    path.write_text("\n".join([HEAD, *lines, f"{test[2]['path']},,test,,,keep,"]) + "\n")
    return path


@pytest.fixture(scope="module")
def corrected(train: Train, photos: Path, corrections: Path) -> dict[str, Any]:
    return train("--data", photos, "--corrections", corrections, "--out", photos.parent / "corrected")


COUNTS = {"relabelled_train": 2, "relabelled_test": 1, "dropped_train": 1, "dropped_test": 1, "kept": 1, "unsure": 0}


def test_a_run_applies_and_records_them(
    plain: dict[str, Any], corrected: dict[str, Any], corrections: Path, photos: Path
) -> None:
    run = Path(corrected["run"])
    before, after = ({row["path"]: row for row in rows(path)} for path in (plain["run"], run))
    assert len(before) - len(after) == 2
    changed = [path for path in after if after[path]["class"] != before[path]["class"]]
    assert len(changed) == 3 and all(after[path]["split"] == before[path]["split"] for path in after)
    assert corrected["test_images"] == plain["test_images"] - 1
    assert (run / "corrections.csv").read_bytes() == corrections.read_bytes()
    assert "corrections.csv" in json.loads((run / "manifest.json").read_text())["files"]
    noted = json.loads((run / "env.json").read_text())["corrections"]
    assert {name: noted[name] for name in COUNTS} == COUNTS and noted == corrected["corrections"]
    assert "3 labels changed (1 of test images), 2 images left out (1 test image)" in corrected["said"]
    assert "scores on a corrected test set are not comparable" in corrected["said"]
    assert len(list(photos.rglob("*.png"))) == 90, "no image is touched"


def test_report_and_card_say_it(corrected: dict[str, Any], tmp_path: Path) -> None:
    run = tenfold.Run.open(corrected["run"])
    page = (run.path / "report.html").read_text()
    assert "Corrections: 3 labels changed (1 of test images), 2 images left out (1 test image)" in page
    assert "--corrections corrections.csv" in page
    run.export(out=tmp_path / "model.onnx")
    card = write_card(run, tmp_path / "model.onnx").read_text()
    assert "Corrections: 3 labels changed" in card and "--corrections corrections.csv" in card


def test_its_own_images_are_scored_with_them(
    plain: dict[str, Any], corrected: dict[str, Any], invoke: Invoke, photos: Path, tmp_path: Path
) -> None:
    for options in ((), ("--data", photos)):
        code, out, err = invoke("evaluate", corrected["run"], *options, "--json")
        found = json.loads(out)
        assert code == 0 and found["test_accuracy"] == corrected["test_accuracy"], err
        assert found["test_images"] == corrected["test_images"] and found["corrections"] == corrected["corrections"]
    shutil.copytree(photos, tmp_path / "moved")
    code, out, _ = invoke("evaluate", corrected["run"], "--data", tmp_path / "moved", "--json")
    assert json.loads(out)["test_accuracy"] == corrected["test_accuracy"]
    evaluation = tenfold.Run.open(corrected["run"]).evaluate(tenfold.load(str(photos)))
    assert evaluation.own and len(evaluation.labels) == corrected["test_images"]
    code, _, err = invoke("compare", plain["run"], corrected["run"], "--out", tmp_path / "page.html")
    assert code == 3 and "images" in err


def test_a_run_resumes_with_its_own_copy(
    invoke: Invoke, tiny_recipe: Path, photos: Path, corrections: Path, tmp_path: Path
) -> None:
    """Also where the file that it was started with is gone; with another one it is refused."""
    mine, out = shutil.copy(corrections, tmp_path / "mine.csv"), tmp_path / "run"
    options = ("--recipe", tiny_recipe, "--data", photos, "--corrections", mine, "--epochs", "60", "--no-report")
    process = Fork(command, "train", *options, "--out", out, env=os.environ)
    assert wait_for(lambda: "epoch 2:" in process.text("err"))
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    resume = ("train", "--resume", "--out", out, "--no-report", "--no-export", "--json")
    (tmp_path / "other.csv").write_text(HEAD + "\n")
    code, _, err = invoke(*resume, "--corrections", tmp_path / "other.csv")
    assert code == 2 and "was started with other corrections: leave --corrections out" in err
    mine.unlink()
    code, text, err = invoke(*resume)
    assert code == 0 and "resuming at step" in err
    assert {name: json.loads(text)["corrections"][name] for name in COUNTS} == COUNTS
    (out / "corrections.csv").write_text(HEAD + "\n")
    code, _, err = invoke("evaluate", out)
    assert code == 4 and "corrections.csv is damaged" in err


def test_named_data_sets_and_label_files(train: Train, photos: Path, tmp_path: Path, invoke: Invoke) -> None:
    data = tenfold.load("shapes")
    given = [data.classes[label] for label in data.test.labels[:2]]
    lines = [HEAD, f",,test,0,{given[0]},relabel,{data.classes[(data.test.labels[0] + 1) % 10]}", ",,test,1,,drop,"]
    (tmp_path / "c.csv").write_text("\n".join(lines) + "\n")
    words = ("--data", "shapes", "--corrections", tmp_path / "c.csv", "--out", tmp_path / "named")
    run = train(*words, "--no-report")
    assert run["test_images"] == 499 and run["corrections"]["relabelled_test"] == 1
    code, out, _ = invoke("evaluate", run["run"], "--json")
    assert code == 0 and json.loads(out)["test_accuracy"] == run["test_accuracy"]
    listed = [path.relative_to(photos).as_posix() for path in sorted(photos.rglob("*.png"))]
    (tmp_path / "l.csv").write_text("\n".join(["path,label", *(f"{p},{p.split('/')[0]}" for p in listed)]) + "\n")
    (tmp_path / "d.csv").write_text(f"{HEAD}\n{listed[0]},,,,,drop,\n")
    source = ("--data", photos, "--labels", tmp_path / "l.csv")
    run = train(*source, "--corrections", tmp_path / "d.csv", "--out", tmp_path / "listed", "--no-report")
    assert len(rows(run["run"])) == 89 and invoke("evaluate", run["run"], *source)[0] == 0


def test_a_data_set_from_python(tmp_path: Path, tiny_recipe: Path) -> None:
    data = make_shapes(train=200, test=20)
    data = tenfold.Dataset("mine", data.classes, data.train, data.test)
    (tmp_path / "c.csv").write_text(f"{HEAD}\n,,test,3,,drop,\n")
    quick: dict[str, Any] = {"epochs": 1, "report": False, "export": False}
    run = tenfold.train(tiny_recipe, data, tmp_path / "run", corrections=tmp_path / "c.csv", **quick)
    assert run.metrics.test_images == 19
    evaluation = run.evaluate(data)
    assert evaluation.own and len(evaluation.labels) == 19


def test_wrong_corrections_end_before_training(invoke: Invoke, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(f"{HEAD}\nno.png,,,,,drop,\n")
    words = ("train", "--data", photos, "--corrections", tmp_path / "c.csv", "--out", tmp_path / "run")
    code, _, err = invoke(*words)
    assert code == 3 and "c.csv, line 2: no.png is not among the images of photos/" in err
    assert not (tmp_path / "run").exists()
    code, _, err = invoke(*words[:3], "--corrections", tmp_path / "no.csv")
    assert code == 3 and "no.csv cannot be read" in err
