"""One command leaves all that the reference system left: seven artefacts, each read back and checked."""

import json
import os
import subprocess
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from tenfold.data.shapes import make_shapes
from tenfold.training.run import Run
from tests.support.process import Command

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def artefacts(fork: Command, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """`tenfold train --recipe reference` on a folder of few pictures, for few steps; its run and what it said."""
    folder, shapes = tmp_path_factory.mktemp("reference"), make_shapes(train=160, test=1)
    for number, (image, label) in enumerate(zip(shapes.train.images, shapes.train.labels, strict=True)):
        path = folder / "pictures" / shapes.classes[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    words = ["train", "--recipe", "reference", "--data", "pictures", "--epochs", "1", "--out", "run"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "TENFOLD_HOME": str(folder / "home")}
    result = fork(*words, cwd=folder, env=env)
    assert result.returncode == 0, result.stderr
    return folder / "run", result


Artefacts = tuple[Path, subprocess.CompletedProcess[str]]


def test_summary(artefacts: Artefacts) -> None:
    run, result = artefacts
    lines = (run / "summary.txt").read_text().splitlines()
    assert lines[-1] == "17,001,930 parameters, 16,998,986 of them trained"
    rows = dict(line.split(maxsplit=1) for line in lines[1:-1])
    assert rows["blocks.1.convs.0"].split() == ["Conv3x3", "128×16×16", "73,856"]
    assert lines[0] in result.stderr and lines[-1] in result.stderr  # between them, blocks of layers


def test_scores_and_report_by_class(artefacts: Artefacts) -> None:
    run, result = artefacts
    results = json.loads((run / "results.json").read_text())
    table = pd.read_csv(run / "per_class.csv", index_col="class")
    assert f"test accuracy {results['test_accuracy']:.2%}" in result.stdout
    assert f"loss {results['test_loss']:.4f}" in result.stdout and results["test_loss"] > results["test_cross_entropy"]
    assert list(table.columns) == ["precision", "recall", "f1", "support", "recall_low", "recall_high"]
    own = table.iloc[:-3]
    right = (own["recall"] * own["support"]).sum()
    assert len(own) == 10 and own["support"].sum() == results["test_images"]
    assert right == pytest.approx(results["test_accuracy"] * results["test_images"], abs=1e-3)


def test_pictures(artefacts: Artefacts) -> None:
    """Loss and accuracy, the first 25 test images, 25 misclassified ones."""
    run, _ = artefacts
    for name in ("history", "gallery", "misclassified"):
        with Image.open(run / "plots" / f"{name}.png") as picture:
            assert min(picture.size) > 300
    rows = pd.read_csv(run / "metrics.csv")
    assert rows[["train_loss", "train_accuracy", "val_loss", "val_accuracy"]].notna().all(axis=None)


def test_model_for_keras(artefacts: Artefacts) -> None:
    run, result = artefacts
    with zipfile.ZipFile(run / "model.keras") as archive:
        assert len(json.loads(archive.read("tenfold.json"))["classes"]) == 10
    assert "model for keras: run/model.keras" in result.stderr
    Run.open(run).verify()
