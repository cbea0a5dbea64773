"""From a label file to a run and back: training, resuming, scoring, and a run's own split as a label file."""

import csv
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from PIL import Image

import tenfold
from tenfold.data.dataset import Split
from tenfold.data.shapes import make_shapes
from tenfold.scaling.tune import SETTINGS
from tenfold.training.split_file import count_held_out
from tests.support.forks import Fork, command
from tests.support.process import Invoke
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.usefixtures("own_home"), pytest.mark.slow]
QUICK = ("--epochs", "1", "--no-report", "--no-export")
Train = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ninety drawn shapes of three classes in one folder, with groups of three and weights."""
    root, drawn = tmp_path_factory.mktemp("data") / "photos", make_shapes(train=300, test=1)
    root.mkdir()
    rows = [(number, label) for number, label in enumerate(drawn.train.labels.tolist()) if label < 3]
    with (root / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("path", "label", "group", "weight"))
        for place, (number, label) in enumerate(rows):
            Image.fromarray(drawn.train.images[number]).save(root / f"{number}.png")
            table.writerow((f"{number}.png", drawn.classes[label], f"g{place // 3}", 1 + number % 2))
    return root


@pytest.fixture(scope="module")
def train(invoke: Invoke, tiny_recipe: Path) -> Train:
    def run(*arguments: str | Path) -> dict[str, Any]:
        code, out, err = invoke("train", "--recipe", tiny_recipe, "--json", *QUICK, *arguments)
        assert code == 0, err
        return json.loads(out) | {"said": err}

    return run


@pytest.fixture(scope="module")
def trained(train: Train, photos: Path) -> dict[str, Any]:
    """A run on the label file, with validation images."""
    return train("--labels", photos / "labels.csv", "--val-size", "16", "--out", photos.parent / "run")


def rows(run: Path | str) -> list[dict[str, str]]:
    with (Path(run) / "split.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_keeps_groups_whole_and_notes_its_label_file(trained: dict[str, Any], photos: Path) -> None:
    table = rows(trained["run"])
    assert {row["split"] for row in table} == {"train", "val", "test"} and len(table) == 90
    held_out = sum(row["split"] == "val" for row in table)
    assert held_out != 16 and f"{held_out} validation images instead of 16: whole groups" in trained["said"]
    assert count_held_out(tenfold.Run.open(trained["run"])) == held_out
    by_group: dict[str, set[str]] = {}
    for row in table:
        by_group.setdefault(row["group"], set()).add(row["split"])
    assert len(by_group) == 30 and all(len(splits) == 1 for splits in by_group.values())
    folder = json.loads((Path(trained["run"]) / "env.json").read_text())["folder"]
    assert (folder["path"], folder["labels"]) == (str(photos), str(photos / "labels.csv"))
    assert len(folder["labels_sha256"]) == 64


def test_the_split_of_a_run_is_a_label_file(
    train: Train, trained: dict[str, Any], photos: Path, tmp_path: Path
) -> None:
    """The same split, labels, groups and weights; and so, where the recipe is fitted to as many, the same bits."""
    run = Path(trained["run"])
    again = train("--data", photos, "--labels", run / "split.csv", "--out", photos.parent / "again")
    assert (Path(again["run"]) / "split.csv").read_text() == (run / "split.csv").read_text()
    first = train("--labels", photos / "labels.csv", "--out", tmp_path / "first")
    second = train("--data", photos, "--labels", tmp_path / "first" / "split.csv", "--out", tmp_path / "second")
    for name in ("split.csv", "model.safetensors", "predictions.csv"):
        assert (Path(first["run"]) / name).read_bytes() == (Path(second["run"]) / name).read_bytes()


def test_its_own_images_are_scored_again(trained: dict[str, Any], invoke: Invoke, photos: Path) -> None:
    run = trained["run"]
    for options in (
        (),
        ("--data", photos),
        ("--labels", photos / "labels.csv"),
        ("--labels", photos / "labels.csv", "--data", photos),
    ):
        code, out, err = invoke("evaluate", run, *options, "--json")
        assert code == 0, err
        assert json.loads(out)["test_accuracy"] == trained["test_accuracy"]
    opened = tenfold.Run.open(run)
    assert opened.evaluate(labels=photos / "labels.csv").own


def test_a_label_file_that_changed_is_named(trained: dict[str, Any], invoke: Invoke, photos: Path) -> None:
    before = (photos / "labels.csv").read_bytes()
    try:
        (photos / "labels.csv").write_bytes(before + b"\n")
        assert invoke("evaluate", trained["run"], "--labels", photos / "labels.csv")[0] == 0, "only another line break"
        (photos / "labels.csv").write_bytes(before.replace(b"disk", b"ring", 1))
        code, _, err = invoke("report", trained["run"])
        assert code == 3 and f"labels.csv, which changed, is not what {trained['run']} was trained on" in err
    finally:
        (photos / "labels.csv").write_bytes(before)


def test_a_folder_that_moved_with_its_label_file_is_found(
    trained: dict[str, Any], invoke: Invoke, photos: Path
) -> None:
    moved = photos.rename(photos.parent / "moved")
    try:
        code, _, err = invoke("report", trained["run"])
        assert code == 3 and "is not there any more" in err
        assert invoke("report", trained["run"], "--data", moved)[0] == 0
        code, out, err = invoke("evaluate", trained["run"], "--data", moved, "--json")
        assert code == 0 and json.loads(out)["test_accuracy"] == trained["test_accuracy"], err
        code, out, err = invoke("evaluate", trained["run"], "--json")
        assert code == 0 and "scored from the logits" in err
        assert json.loads(out)["test_accuracy"] == trained["test_accuracy"]
    finally:
        moved.rename(photos)


def test_other_images_of_a_label_file_are_all_scored_on(
    trained: dict[str, Any], invoke: Invoke, photos: Path, tmp_path: Path
) -> None:
    lines = (photos / "labels.csv").read_text().splitlines()
    shutil.copytree(photos, tmp_path / "other")
    (tmp_path / "other" / "some.csv").write_text("\n".join([lines[0], *lines[1:13]]))
    words = ("evaluate", trained["run"], "--labels", tmp_path / "other" / "some.csv", "--json")
    code, out, err = invoke(*words)
    assert code == 0 and json.loads(out)["test_images"] == 12 and "of these images have names" in err
    (tmp_path / "other" / "some.csv").write_text(f"path,label\n{lines[1].split(',')[0]},comet\n")
    code, _, err = invoke(*words)
    assert code == 3 and "not among them: comet" in err


def test_a_run_resumes_where_its_label_file_moved(
    invoke: Invoke, tiny_recipe: Path, photos: Path, tmp_path: Path
) -> None:
    copy, out = tmp_path / "copy", tmp_path / "run"
    shutil.copytree(photos, copy)
    options = ("--recipe", tiny_recipe, "--labels", copy / "labels.csv", "--epochs", "60", "--no-report")
    process = Fork(command, "train", *options, "--out", out, env=os.environ)
    assert wait_for(lambda: "epoch 2:" in process.text("err"))
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    copy.rename(tmp_path / "elsewhere")
    resume = ("train", "--resume", "--out", out, "--no-report", "--no-export")
    code, _, err = invoke(*resume)
    assert code == 3 and "is not there any more" in err
    code, _, err = invoke(*resume, "--data", photos, "--labels", tmp_path / "no.csv")
    assert code == 3 and "no.csv, the label file of" in err
    code, _, err = invoke(*resume, "--labels", tmp_path / "elsewhere" / "labels.csv", "--label-columns", "path=file")
    assert code == 2 and "was started with --label-columns" in err
    code, _, err = invoke(*resume, "--labels", tmp_path / "elsewhere" / "labels.csv")
    assert code == 0 and "resuming at step" in err
    folder = json.loads((out / "env.json").read_text())["folder"]
    assert folder["labels"] == str(tmp_path / "elsewhere" / "labels.csv")


def test_labels_go_with_a_folder_only(invoke: Invoke, photos: Path, tmp_path: Path) -> None:
    code, _, err = invoke("train", "--data", "shapes", "--labels", photos / "labels.csv", "--out", tmp_path / "x")
    assert code == 2 and "--data must be their folder, not shapes" in err
    with pytest.raises(tenfold.TenfoldError, match=r"a tenfold.Dataset has its own"):
        tenfold.train(data=tenfold.load("shapes"), labels=photos / "labels.csv")


def test_the_command_that_repeats_the_run_names_its_label_file(trained: dict[str, Any], photos: Path) -> None:
    from tenfold.serving.card import _training

    card = _training(tenfold.Run.open(trained["run"]))
    assert "--data photos/" in card and "--labels labels.csv" in card and str(photos) not in card


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A label file of twelve images in a folder, six of each class, with a column of another name."""
    rng, rows = np.random.default_rng(0), ["path,species"]
    (tmp_path / "mine").mkdir()
    for number in range(12):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / "mine" / f"{number}.png")
        rows.append(f"{number}.png,{'ant' if number % 2 else 'bee'}")
    path = tmp_path / "mine" / "labels.csv"
    path.write_text("\n".join(rows))
    return path


LISTED = ("--label-columns", "label=species")


def test_samples_of_a_label_file_are_drawn(invoke: Invoke, listed: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.png"
    ended = invoke("data", "show", "--labels", listed, *LISTED, "--out", out, "--json")
    assert ended.returncode == 0 and out.exists(), ended.stderr
    said = json.loads(ended.stdout)
    assert {name: said["train"][name] + said["test"][name] for name in ("ant", "bee")} == {"ant": 6, "bee": 6}


def test_the_step_of_a_label_file_is_profiled(
    invoke: Invoke, listed: Path, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    def measure(_recipe: object, train: Split, classes: int, *_: object) -> NoReturn:
        seen.append((len(train), classes))
        raise MemoryError

    monkeypatch.setattr("tenfold.training.profile.profile_step", measure)
    invoke("profile", "--recipe", tiny_recipe, "--labels", listed, *LISTED)
    assert len(seen) == 1 and seen[0][0] in (8, 10) and seen[0][1] == 2


def test_every_run_of_a_bench_reads_the_label_file(
    invoke: Invoke, listed: Path, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def measure(_recipes: object, _seeds: object, _path: Path, setting: Any) -> NoReturn:
        asked.append(setting)
        raise MemoryError

    monkeypatch.setattr("tenfold.scaling.bench.bench", measure)
    words = ("bench", "--recipe", tiny_recipe, "--labels", listed, *LISTED)
    invoke(*words)
    (setting,) = asked
    options = list(setting.options)
    expected = {"--labels": str(listed), "--label-columns": "label=species", "--data": str(listed.parent)}
    assert {option: options[options.index(option) + 1] for option in expected} == expected
    ended = invoke(*words, "--cluster", "auto")
    assert ended.returncode == 2 and "--cluster does not send label files to its nodes" in ended.stderr


def test_a_search_reads_the_label_file(invoke: Invoke, listed: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    space = tmp_path / "space.json"
    space.write_text('{"label_smoothing": {"low": 0.0, "high": 0.2}}')
    words = ("--trials", "1", "--space", space, "--val-size", "4", "--out", tmp_path / "search", "--json")
    ended = invoke("tune", tiny_recipe, "--labels", listed, *LISTED, *words)
    assert ended.returncode == 0, ended.stderr
    kept = json.loads((tmp_path / "search" / SETTINGS).read_text())
    assert (kept["labels"], kept["label_columns"]) == (str(listed), "label=species")
