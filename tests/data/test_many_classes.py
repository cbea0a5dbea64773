"""More classes than a byte can number, from a folder of images to predictions."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tenfold import data
from tests.support.process import Invoke

pytestmark = pytest.mark.slow

CLASSES = tuple(f"c{number:03}" for number in range(300))


def colour_of(number: int) -> tuple[int, int, int]:
    """One that no other class has."""
    return 17 * (number % 15), 17 * (number // 15 % 15), 17 * (number // 225 * 7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Three training images and one test image a class, each of one colour."""
    root = tmp_path_factory.mktemp("many") / "colours"
    for number, name in enumerate(CLASSES):
        image = Image.new("RGB", (8, 8), colour_of(number))
        for part, count in (("train", 3), ("test", 1)):
            (root / part / name).mkdir(parents=True)
            for copy in range(count):
                image.putpixel((copy, 0), (copy, number % 256, 7))
                image.save(root / part / name / f"{copy}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENFOLD_HOME", str(root.parent / "home"))
        yield root


@pytest.fixture(scope="module")
def trained(folder: Path, invoke: Invoke, tiny_recipe: Path) -> Path:
    run = folder.parent / "run"
    words = ("--recipe", tiny_recipe, "--data", folder, "--size", "8", "--epochs", "1", "--out", run)
    code, _, err = invoke("train", *words)
    assert code == 0, err
    return run


def answer(invoke: Invoke, *words: str | Path) -> Any:
    code, out, err = invoke(*words)
    assert code == 0, err
    return json.loads(out)


def test_every_class_has_its_own_row_and_probability(trained: Path, folder: Path, invoke: Invoke) -> None:
    said = answer(invoke, "evaluate", trained, "--json")
    assert [row["class"] for row in said["per_class"][:300]] == list(CLASSES)
    assert [sum(row) for row in said["confusion_matrix"]] == [1] * 300
    assert answer(invoke, "export", trained, "--json")["top1_agreement"] == 1.0
    prediction = answer(
        invoke, "predict", folder / "test" / "c299" / "0.png", "--model", trained, "--top", "300", "--json"
    )
    assert {guess["label"] for guess in prediction["top"]} == set(CLASSES)
    assert sum(guess["probability"] for guess in prediction["top"]) == pytest.approx(1, abs=1e-3)


def test_labels_above_255_stay_what_they_are(trained: Path, folder: Path, invoke: Invoke) -> None:
    """Of other images, a few classes only: their numbers are the run's, not modulo 256."""
    other = folder.parent / "other"
    for name in ("c010", "c266", "c299"):
        (other / name).mkdir(parents=True)
        (other / name / "x.png").write_bytes((folder / "test" / name / "0.png").read_bytes())
    matrix = np.array(answer(invoke, "evaluate", trained, "--data", other, "--json")["confusion_matrix"])
    assert np.flatnonzero(matrix.sum(axis=1)).tolist() == [10, 266, 299]


def test_labels_of_one_byte_are_widened_where_a_model_has_more_classes() -> None:
    """NumPy refused to number them, in an `OverflowError`."""
    split = data.Split(np.zeros((2, 1, 1, 3), np.uint8), np.array([0, 1], np.uint8))
    wider = data.Dataset("x", ("c010", "c266"), split, replace(split)).with_classes(CLASSES)
    assert wider.train.labels.tolist() == wider.test.labels.tolist() == [10, 266]
    assert wider.train.labels.dtype.kind == "u"
