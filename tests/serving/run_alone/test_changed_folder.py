"""A finished run answers, is exported and scored where its folder of images changed, moved or is gone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tenfold.data.shapes import make_shapes
from tenfold.serving.predictor import open_model
from tenfold.training.run import Run
from tests.support.process import Invoke
from tests.support.run_alone import CHANGES, CPU, added, gone, trained_label, write_images
from tests.support.served import process


@pytest.mark.parametrize("how", CHANGES, ids=lambda how: how.__name__)
def test_inference_needs_no_training_data(
    invoke: Invoke,
    trained: dict[str, Any],
    run: Path,
    changed: Callable[[Any], Path],
    photo: Path,
    tmp_path: Path,
    how: Callable[[Path], None],
) -> None:
    """`predict` and `export` write the model that training wrote, checked on what there is; `explain` needs neither."""
    changed(how)
    code, out, err = invoke("export", run, "--out", tmp_path / "x.onnx", "--json")
    assert code == 0, err
    said = json.loads(out)
    assert (said["verified_on"], said["top1_agreement"]) == (CHANGES[how], 1.0) and said["max_abs_diff"] < 1e-4
    assert said["verified_images"] == (12 if how is added else 500)
    assert f"checked on {CHANGES[how]}: " in err and err.count("\n") <= 3
    code, out, _ = invoke("export", run, "--out", tmp_path / "x.onnx")
    assert f" images, largest difference of probabilities {said['max_abs_diff']:.1g}" in out
    code, out, err = invoke("predict", photo, "--model", run, "--json")
    assert code == 0, err
    images = np.array(Image.open(photo))[None]
    (expected,) = open_model(Path(trained["run"]) / "model.onnx").predict(images)
    assert json.loads(out)["probability"] == pytest.approx(expected.max(), abs=1e-5)
    Run.open(run).verify()
    assert open_model(run / "model.onnx").about == open_model(tmp_path / "x.onnx").about
    code, out, err = invoke("explain", run, photo, "--out", tmp_path / "maps", "--json")
    assert code == 0 and json.loads(out)["images"][0]["label"] == trained_label(expected), err


@pytest.mark.parametrize("how", CHANGES, ids=lambda how: how.__name__)
def test_scores_come_from_what_the_run_keeps(
    invoke: Invoke, run: Path, changed: Callable[[Any], Path], how: Callable[[Path], None], tmp_path: Path
) -> None:
    """To the last digit those of its images. Other commands say that they need the images, and change nothing."""
    words = ("evaluate", run, "--json", "--predictions")
    before = json.loads(invoke(*words, tmp_path / "before.csv")[1])
    saved = changed(how)
    code, out, err = invoke(*words, tmp_path / "after.csv")
    assert code == 0, err
    assert json.loads(out) == before and f"scored from the logits and labels in {run}, not from images: " in err
    assert (tmp_path / "after.csv").read_bytes() == (tmp_path / "before.csv").read_bytes()
    Run.open(run).verify()
    for needing in (("report", run), ("audit", run)):
        code, _, err = invoke(*needing)
        assert code == 3 and err.count("tenfold: ") == 1 and "Traceback" not in err
    if how is gone:
        assert "is not there any more: say where it is with --data" in err
        assert invoke("report", run, "--data", saved)[0] == 0


def test_other_images_are_scored_without_the_runs_own(
    invoke: Invoke, run: Path, changed: Callable[[Any], Path], tmp_path: Path
) -> None:
    other = write_images(tmp_path / "other", make_shapes(8, train=1, test=40))
    changed(gone)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    code, out, err = invoke("evaluate", run, "--data", other, "--json")
    assert code == 0 and json.loads(out)["test_images"] == 12, err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_scores_of_other_weights_are_not_used(invoke: Invoke, run: Path, changed: Callable[[Any], Path]) -> None:
    """And damaged ones are named."""
    changed(gone)
    opened = Run.open(run)
    content = (run / "predictions.csv").read_bytes()
    (run / "predictions.csv").write_bytes(content[:-2])
    assert "predictions.csv is damaged" in invoke("evaluate", run)[2]
    (run / "predictions.csv").write_bytes(content)
    network = opened.load_model(CPU).network
    with torch.no_grad():
        network.get_parameter("head.weight").mul_(1.1)
    opened.save_model(network, opened.read_json("model.json"))
    opened.write_manifest()
    code, _, err = invoke("evaluate", run)
    assert code == 3 and "is not there any more: say where it is with --data" in err


def test_two_runs_are_compared_where_their_folder_moved_to(
    invoke: Invoke, run: Path, changed: Callable[[Any], Path], tmp_path: Path
) -> None:
    """--data was refused for several runs, though it was asked for."""
    other = Path(shutil.copytree(run, tmp_path / "other"))
    saved = changed(gone)
    page = tmp_path / "page.html"
    code, _, err = invoke("compare", run, other, "--out", page)
    assert code == 3 and "say where it is with --data" in err
    assert invoke("compare", run, other, "--out", page, "--data", saved)[:2] == (0, f"{page}\n")


@pytest.mark.slow
def test_a_service_starts_from_a_copied_run(run: Path, changed: Callable[[Any], Path], photo: Path) -> None:
    """In a process of its own, which writes the model file first; its cache is empty."""
    changed(gone)
    with process(run, run.parent, TENFOLD_HOME=str(run.parent / "home")) as service:
        answer = service.ask("POST", "/predict", photo.read_bytes())
    (expected,) = open_model(run / "model.onnx").predict(np.array(Image.open(photo))[None])
    assert (answer.status, answer.json()["predictions"][0]["label"]) == (200, trained_label(expected))
