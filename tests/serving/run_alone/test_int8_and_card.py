"""8-bit files and model cards of a run whose images are gone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tenfold.data.shapes import make_shapes
from tenfold.serving import export as exporting
from tenfold.serving.predictor import open_model
from tenfold.training.provenance import reload_dataset
from tenfold.training.run import Run
from tests.support.process import Invoke
from tests.support.run_alone import gone, write_images


def test_eight_bits_need_images(
    invoke: Invoke, run: Path, changed: Callable[[Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`on` is refused, `auto` stays with float32 and says why; a folder of such images serves, be it another one."""
    saved, file = changed(gone), tmp_path / "x.onnx"
    code, out, err = invoke("export", run, "--int8", "on", "--out", file)
    assert (code, out, file.exists()) == (3, "", False)
    assert "int8 files need images, to set ranges and to measure what is lost: give a folder of the run's" in err
    code, out, err = invoke("export", run, "--int8", "auto", "--out", file, "--json")
    assert code == 0 and not json.loads(out)["quantized"] and json.loads(out)["images_per_second"] is None
    assert "kept in float32: without real images" in err
    monkeypatch.setattr(exporting, "MOST_LOSS", 1.0)  # twelve images do not count to 0.3 %
    code, out, _ = invoke("export", run, "--int8", "on", "--data", saved, "--out", file, "--json")
    said = json.loads(out)
    assert (code, said["quantized"], said["verified_on"]) == (0, True, "test images")
    right = open_model(file).predict(reload_dataset(Run.open(run), saved).test.images).argmax(1)
    assert said["accuracy"] == pytest.approx(
        (right == reload_dataset(Run.open(run), saved).test.labels).mean(), abs=0.1
    )
    other = write_images(tmp_path / "other", make_shapes(8, train=1, test=100))
    code, out, err = invoke("export", run, "--int8", "on", "--data", other, "--out", file, "--json")
    said = json.loads(out)
    assert (code, said["quantized"], said["verified_on"], said["accuracy"]) == (0, True, "other images", None), err
    assert open_model(file).about.accuracy is None


def test_a_folder_of_other_classes_is_refused(invoke: Invoke, run: Path, flowers: Path, tmp_path: Path) -> None:
    shutil.copytree(flowers, tmp_path / "other")
    shutil.move(tmp_path / "other" / "bar", tmp_path / "other" / "rod")
    code, _, err = invoke("export", run, "--data", tmp_path / "other", "--out", tmp_path / "x.onnx")
    assert code == 3 and "other/ holds no test images of the kind that" in err and "3 classes, 32 pixels a side" in err
    code, _, err = invoke("export", run, "--data", tmp_path / "absent", "--out", tmp_path / "x.onnx")
    assert code == 3 and "absent is not a folder that can be read" in err
    assert not (tmp_path / "x.onnx").exists()


def test_a_card_without_test_images_says_that_nothing_was_measured(
    invoke: Invoke, trained: dict[str, Any], run: Path, flowers: Path, changed: Callable[[Any], Path], photo: Path
) -> None:
    """A card that is there is written again with its file; a folder that is gone must not end that."""
    assert invoke("export", run, "--card")[0] == 0
    assert "All of them were measured on this very file.\nOn 12 test images" in (run / "model.md").read_text()
    (run / "model.onnx").unlink()
    changed(gone)
    code, _, err = invoke("predict", photo, "--model", run)
    assert code == 0, err
    text = (run / "model.md").read_text()
    assert f"When it was trained, {trained['test_accuracy_single_view']:.2%} were right.\nThe test images were" in text
    assert "--data flowers/ --seed 0" in text and str(flowers.parent) not in text
    Run.open(run).verify()
