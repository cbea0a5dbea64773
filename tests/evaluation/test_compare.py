"""Runs side by side: what is counted, which images are shown, and what cannot be compared."""

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load, save

from tenfold.errors import DataError, ModelError, UsageError
from tenfold.evaluation import significance
from tenfold.evaluation.compare import read_comparison, write_comparison
from tenfold.files import format_object
from tenfold.training.fingerprint import fingerprint
from tenfold.training.run import Run
from tests.support.drawn_run import make_drawn_run
from tests.support.few_shapes import few_shapes

DATASET = few_shapes()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("compared")
    paths = [folder / f"run-{seed}" for seed in range(3)]
    for seed, path in enumerate(paths):
        make_drawn_run(path, DATASET, seed, report=False)
    return paths


@pytest.fixture
def runs(made: list[Path], tmp_path: Path) -> list[Path]:
    return [Path(shutil.copytree(path, tmp_path / path.name)) for path in made]


def as_folder_run(path: Path, place: str, names: np.ndarray) -> None:
    """Make it a run on a folder's images of these names."""
    run, frame = Run.open(path), pd.read_csv(path / "predictions.csv")
    folder = {"path": place, "sha256": "0", "size": 32, "resize": "stretch"}
    env = run.env | {"data": f"{Path(place).name}/", "folder": folder}
    frame.insert(1, "path", names)
    run.rewrite_in_manifest({"env.json": json.dumps(env), "predictions.csv": frame.to_csv(index=False)})


def test_a_folder_may_lie_elsewhere_but_its_test_images_are_the_same(
    runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another seed draws other images, whose labels may well come in the same order."""
    names = np.array([f"{number}.png" for number in range(len(DATASET.test))], object)
    folder = replace(DATASET, test=replace(DATASET.test, names=names))
    monkeypatch.setattr("tenfold.evaluation.compare.reload_dataset", lambda *_: folder)
    as_folder_run(runs[0], "/here/shapes", names)
    as_folder_run(runs[1], "/there/drawn", names)
    as_folder_run(runs[2], "/here/shapes", names[::-1])
    assert len(read_comparison(runs[:2]).sides) == 2
    with pytest.raises(DataError, match=r"run-2 and .*run-0 were not scored on the same test images: .*same --seed"):
        read_comparison([runs[0], runs[2]])


def answers(path: Path) -> np.ndarray:
    rows = (path / "predictions.csv").read_text().splitlines()[1:]
    return np.array([DATASET.classes.index(row.split(",")[2]) for row in rows])


def test_the_page_counts_what_the_predictions_say(made: list[Path], tmp_path: Path) -> None:
    page = write_comparison(made, tmp_path / "comparison.html").path.read_text()
    said = np.stack([answers(path) for path in made])
    right = said == DATASET.test.labels
    differing = (said != said[0]).any(axis=0)
    assert f"{differing.sum():,} images get different predictions" in page
    for other in (1, 2):
        only_other, only_first = (right[other] & ~right[0]).sum(), (right[0] & ~right[other]).sum()
        assert re.search(rf"run-{other}</th>.*?<td>{only_other}</td><td>{only_first}</td>", page)
        recalls = [f"{100 * right[run][DATASET.test.labels == 0].mean():.2f} %" for run in range(3)]
        row = re.search(r"<th scope=\"row\">disk</th>(.*?)</tr>", page)
        assert row and [re.sub("<[^>]*>", "", cell) for cell in row[1].split("</td><td>")][1:] == recalls


def test_a_class_without_test_images_is_named(
    made: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wider = replace(DATASET, classes=(*DATASET.classes, "comet <b>"))
    monkeypatch.setattr("tenfold.evaluation.compare.reload_dataset", lambda *_: wider)
    page = write_comparison(made[:2], tmp_path / "comparison.html").path.read_text()
    assert "Left out, as they have no test images: comet &lt;b&gt;." in page
    monkeypatch.setattr("tenfold.evaluation.compare.reload_dataset", lambda *_: DATASET)
    assert "Left out" not in write_comparison(made[:2], tmp_path / "comparison.html").path.read_text()


def test_the_script_knows_the_answers_on_which_runs_differ(made: list[Path], tmp_path: Path) -> None:
    page = write_comparison(made[:2], tmp_path / "comparison.html").path.read_text()
    found = re.search(r'id="data">(.*?)</script>', page, re.S)
    assert found
    known = json.loads(found[1])
    assert known["runs"] == ["run-0", "run-1"]
    said = np.stack([answers(path) for path in made[:2]])
    numbers = [int(name.removeprefix("test image ")) for name, *_ in known["images"]]
    assert sorted(numbers) == np.flatnonzero(said[0] != said[1]).tolist()
    for number, (_, truth, both, _) in zip(numbers, known["images"], strict=True):
        assert truth == DATASET.test.labels[number] and both == said[:, number].tolist()
    some_right = [truth in both for _, truth, both, _ in known["images"]]
    assert some_right == sorted(some_right, reverse=True)


def test_pairs_are_corrected_together(made: list[Path]) -> None:
    comparison = read_comparison(made)
    right = comparison.right
    p = [significance.compare_pair(right[:, 0], right[:, i]).p for i in (1, 2)]
    assert [corrected for _, _, corrected in comparison.pairs()] == significance.holm(p)


def test_runs_of_other_test_images_are_refused(runs: list[Path]) -> None:
    table = runs[1] / "predictions.csv"
    lines = table.read_text().splitlines()
    Run.open(runs[1]).rewrite_in_manifest({table.name: "\n".join([lines[0], *reversed(lines[1:])]) + "\n"})
    with pytest.raises(DataError, match=r"run-1 and .*run-0 were not scored on the same test images"):
        read_comparison(runs)


def note_other_data(path: Path, images: str | None = None) -> None:
    """Make it a run on other data of the same name, whose kept logits are of test images with that digest."""
    run = Run.open(path)
    env, name = run.env | {"data_sha256": "f" * 64}, "logits/test.safetensors"
    tensors = load((path / name).read_bytes())
    logits = save(tensors, {"tenfold": json.dumps({"images": images})})
    run.rewrite_in_manifest({"env.json": format_object(env), name: logits})


@pytest.mark.slow
def test_other_data_of_the_same_name_are_not_taken_for_the_same(
    runs: list[Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Labels may well be the same; only the name was looked at. Known test images can be compared, and this is said."""
    note_other_data(runs[1])
    with pytest.raises(DataError, match=r"run-1 and .*run-0 were not scored on the same test images"):
        read_comparison(runs[:2])
    note_other_data(runs[1], hashlib.sha256(DATASET.test.images.tobytes()).hexdigest())
    assert len(read_comparison(runs[:2]).sides) == 2
    assert "run-1 was trained on other data called 'shapes' than " in capsys.readouterr().err
    page = write_comparison(runs[:2], tmp_path / "page.html").path.read_text()
    assert "SHA-256 of the data" in page and "f" * 12 in page and fingerprint(DATASET)[:12] in page
    assert "SHA-256 of the data" not in write_comparison(runs[::2], tmp_path / "page.html").path.read_text()
    with pytest.raises(DataError, match=r"shapes is not what .*run-0, the first of the runs, was trained on"):
        read_comparison(runs[::2], data=replace(DATASET, test=DATASET.test[::-1]))


def test_damaged_and_unfinished_runs_are_refused(runs: list[Path]) -> None:
    (runs[2] / "manifest.json").unlink()
    with pytest.raises(ModelError, match=r"run-2 has no scores yet"):
        read_comparison(runs)
    with (runs[1] / "predictions.csv").open("a") as file:
        file.write("1,disk,disk,1,1,0,True\n")
    with pytest.raises(ModelError, match=r"run-1/predictions\.csv is damaged"):
        read_comparison(runs)


def test_runs_of_one_name_are_told_apart(made: list[Path], tmp_path: Path) -> None:
    """Both names were cut at 60 characters, within what they had in common: a verdict of one run on itself."""
    long = tmp_path / ("x" * 40) / ("y" * 40)
    for side in ("left", "right"):
        shutil.copytree(made[0], long / side / "run")
    names = [side.name for side in read_comparison([long / "left" / "run", long / "right" / "run"]).sides]
    assert names == ["left/run", "right/run"]


def test_a_run_is_not_compared_with_itself(made: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name each run once"):
        write_comparison([made[0], made[0].parent / "." / "run-0"], tmp_path / "comparison.html")
