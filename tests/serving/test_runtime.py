"""Which runtime runs what, and what pixels it takes."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from tenfold.errors import DataError, UsageError
from tenfold.serving import predictor
from tenfold.serving.predictor import open_model
from tenfold.serving.runtime import choose_runtime, runtime_versions


def test_onnx_runtime_runs_all_unless_openvino_is_asked_for(
    small: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in (small, model):
        assert open_model(file).runtime.startswith("onnxruntime ")
    assert choose_runtime(True)[1] == "run by ONNX Runtime; TENFOLD_RUNTIME=openvino lets OpenVINO run int8 files"
    monkeypatch.setenv("TENFOLD_RUNTIME", "openvino")
    assert open_model(small).runtime.startswith("openvino ") and open_model(model).runtime.startswith("onnxruntime ")
    assert runtime_versions() == f"{open_model(model).runtime}, {open_model(small).runtime}"
    assert "int8 files are run by OpenVINO, as TENFOLD_RUNTIME says" in choose_runtime(True)[1]
    monkeypatch.setenv("TENFOLD_RUNTIME", "tensorrt")
    with pytest.raises(UsageError, match="TENFOLD_RUNTIME: unknown runtime 'tensorrt': choose onnxruntime or openvino"):
        open_model(small)


def test_openvino_is_not_given_what_it_gets_wrong(model: Path) -> None:
    with pytest.raises(
        UsageError, match="openvino runs int8 files only: its predictions are wrong for older float32 files"
    ):
        open_model(model, "openvino")


def test_openvino_asked_for_and_not_installed(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else found(name))
    assert open_model(small).runtime.startswith("onnxruntime ")
    with pytest.raises(UsageError, match="openvino is not installed: install it with pip install openvino"):
        open_model(small, "openvino")
    monkeypatch.setenv("TENFOLD_RUNTIME", "openvino")
    with pytest.raises(
        UsageError, match="TENFOLD_RUNTIME: openvino is not installed: install it with pip install openvino"
    ):
        open_model(small)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_answers_do_not_depend_on_the_batch(small: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Any number of images, in parts or whole, contiguous or not."""
    model = open_model(small, name)
    images = np.random.default_rng(0).integers(0, 256, (11, 32, 32, 3), dtype=np.uint8)
    whole = model.predict(images)
    assert whole.shape == (11, 10) and whole.dtype == np.float32
    np.testing.assert_allclose(whole.sum(1), 1, atol=1e-5)
    monkeypatch.setattr(predictor, "BATCH_SIZE", 3)
    np.testing.assert_allclose(model.predict(images), whole, atol=1e-6)
    np.testing.assert_allclose(model.predict(images[::-1]), whole[::-1], atol=1e-6)
    assert model.predict(images[:0]).shape == (0, 10)


@pytest.mark.parametrize("shape", [(32, 32, 3), (1, 3, 32, 32), (1, 28, 28, 3), (1, 32, 32, 4)])
def test_pixels_of_another_shape_are_refused(model: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"images must be uint8 N×32×32×3, not uint8 \d"):
        open_model(model).predict(np.zeros(shape, np.uint8))
    with pytest.raises(DataError, match="not float32 1×32×32×3"):
        open_model(model).predict(np.zeros((1, 32, 32, 3), np.float32))


def test_large_images_are_taken_fewer_at_a_time(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """256 of 224 pixels would take gigabytes: the file's 32 pixels count as large here, as twice the side."""
    model, seen = open_model(small), list[int]()
    run = model._run
    monkeypatch.setattr(model, "_run", lambda images: seen.append(len(images)) or run(images))
    images = np.zeros((70, 32, 32, 3), np.uint8)
    model.predict(images)
    monkeypatch.setattr(predictor, "LARGE_SIDE", 16)
    model.predict(images)
    assert seen == [70, 64, 6]
