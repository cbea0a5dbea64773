"""Training ends with a model file, all that prediction needs, whatever happens at the end."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tenfold.data.shapes import make_shapes
from tenfold.serving import export as exporting
from tenfold.serving.predictor import open_model
from tenfold.training.run import Run
from tests.support.process import Invoke
from tests.support.run_alone import torch_probabilities


def test_training_ends_with_a_model_file_that_knows_the_final_scores(trained: dict[str, Any]) -> None:
    """Without a report, too: predict and serve need it. Its time is no part of that to the scores."""
    run = Run.open(Path(trained["run"]))
    file = run.path / "model.onnx"
    assert f"model for predict and serve: {file}, checked on 12 test images" in trained["said"]
    assert run.digest("model.onnx") == hashlib.sha256(file.read_bytes()).hexdigest()
    run.verify()
    about, calibration = open_model(file).about, run.read_json("results.json")["calibration"]
    assert (about.temperature, about.threshold) == (calibration["temperature"], calibration["threshold"])
    assert about.accuracy == trained["test_accuracy_single_view"] and not (run.path / "report.html").exists()
    images = make_shapes(4, train=1, test=50).test.images
    expected = torch_probabilities(run, images, calibration["temperature"])
    np.testing.assert_allclose(open_model(file).predict(images), expected, atol=1e-5)
    assert trained["export_seconds"] > 0 and "export_seconds" not in run.read_json("results.json")
    parts = sum(trained[f"{name}_seconds"] for name in ("setup", "train", "evaluation"))
    assert trained["total_seconds"] == pytest.approx(parts)


def test_without_export_the_first_prediction_writes_it(
    invoke: Invoke, flowers: Path, tiny_recipe: Path, tmp_path: Path, photo: Path
) -> None:
    words = ("--recipe", tiny_recipe, "--data", flowers, "--epochs", 1, "--no-report", "--no-export")
    assert invoke("train", *words, "--out", tmp_path / "run")[0] == 0
    assert not (tmp_path / "run" / "model.onnx").exists()
    code, _, err = invoke("predict", photo, "--model", tmp_path / "run")
    assert code == 0 and "its model is written as ONNX, once" in err
    Run.open(tmp_path / "run").verify("model.onnx")


CHILD = """
import os, signal, sys
from tenfold import cli
from tenfold.training import manifest

place = sys.argv.pop(1)
write_bytes = manifest.write_bytes


def struck(path, content):
    if path.name != "model.onnx" or place == "after":
        write_bytes(path, content)
    if path.name == "model.onnx":
        os.kill(os.getpid(), signal.SIGKILL)


manifest.write_bytes = struck
cli.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("place", ["before", "after"])
def test_killed_while_the_model_is_written_a_run_is_finished_all_the_same(
    invoke: Invoke, flowers: Path, tiny_recipe: Path, tmp_path: Path, photo: Path, place: str
) -> None:
    """Before model.onnx is written, and between it and the manifest: the next command writes it, without the data."""
    data, run = Path(shutil.copytree(flowers, tmp_path / "data")), tmp_path / "run"
    words = ["train", "--recipe", tiny_recipe, "--data", data, "--epochs", 1, "--out", run]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}  # as it is for most people
    line = [sys.executable, "-c", CHILD, place, *map(str, words)]
    killed = subprocess.run(line, capture_output=True, text=True, env=env)
    assert killed.returncode == -signal.SIGKILL and "test accuracy" in killed.stdout
    assert Run.open(run).scored and (run / "model.onnx").exists() is (place == "after")
    shutil.rmtree(data)
    assert invoke("predict", photo, "--model", run)[0] == 0
    Run.open(run).verify()


@pytest.mark.slow
def test_a_model_that_cannot_be_exported_ends_with_4_after_all_else(
    invoke: Invoke, flowers: Path, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores, the page and the answer in JSON are there as always."""
    right = exporting.to_onnx
    monkeypatch.setattr(exporting, "to_onnx", lambda *words, **more: right(*words[:-1], words[-1] * 1.5, **more))
    words = ("--recipe", tiny_recipe, "--data", flowers, "--epochs", 8, "--json", "--out", tmp_path / "run")
    code, out, err = invoke("train", *words)
    assert code == 4 and "tenfold: trained and scored, but not exported: the file would differ" in err
    assert json.loads(out)["report_seconds"] > 0 and (tmp_path / "run" / "report.html").is_file()
    assert Run.open(tmp_path / "run").scored and not (tmp_path / "run" / "model.onnx").exists()
