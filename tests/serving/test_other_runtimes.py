"""Exported files in runtimes that tenfold does not use itself: OpenVINO, OpenCV, ONNX's reference, other Keras."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from tenfold.serving.export import Source
from tenfold.serving.keras_file import import_keras, save, to_keras
from tenfold.serving.predictor import BUNDLED, open_model
from tenfold.training.provenance import reload_dataset
from tenfold.training.run import Run
from tests.support.networks import SPECS, make_source

TOLERANCE = 1e-4  # of a probability; the export itself allows 1e-3
ROUNDED = 0.1  # with 8 bits: a number between two steps is rounded to the other one; 0.04 was seen


@pytest.fixture(scope="module")
def images(run: Run) -> np.ndarray:
    """Test images, uint8 200×32×32×3."""
    return np.array(reload_dataset(run).test.images[:200])


def install(package: str, folder: Path) -> dict[str, str]:
    """Install one package, without those that it needs, into a folder; the environment in which it comes first."""
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*words, "--target", str(folder), package], check=True, capture_output=True, timeout=600)
    return os.environ | {"PYTHONPATH": str(folder)}


def ask(code: str, env: dict[str, str], *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `code` in a process of its own."""
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)


# --- ONNX ------------------------------------------------------------------------------------------------------------


def test_float32_in_plain_openvino(run: Run, model: Path, images: np.ndarray) -> None:
    """Without the pools over single pixels it computes GELU before max pooling, and was off by 0.14 here."""
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    expected, distance = open_model(model).infer(images)
    assert np.ptp(expected) > 0.9 and distance is not None
    answers = compiled([images])
    np.testing.assert_allclose(answers[0], expected, atol=TOLERANCE)
    np.testing.assert_allclose(answers[1], distance, atol=1e-2, rtol=1e-3)


def test_float32_in_the_reference_of_onnx(model: Path, images: np.ndarray) -> None:
    answers, distances = ReferenceEvaluator(onnx.load(model)).run(None, {"images": images[:4]})
    expected, distance = open_model(model).infer(images[:4])
    assert distance is not None
    np.testing.assert_allclose(answers, expected, atol=TOLERANCE)
    np.testing.assert_allclose(distances, distance, atol=1e-3, rtol=1e-3)


OPENCV = """
import sys, cv2, numpy
net = cv2.dnn.readNetFromONNX(sys.argv[1], *map(int, sys.argv[4:]))
net.setInput(numpy.load(sys.argv[2]))
numpy.save(sys.argv[3], net.forward("probabilities"))
net.setInput(numpy.load(sys.argv[2]))
numpy.save(sys.argv[3] + ".distance.npy", net.forward("distance"))
print(cv2.__version__)
"""


@pytest.mark.acceptance
@pytest.mark.parametrize("version", ["4", "5"])
def test_opencv(version: str, run: Run, model: Path, small: Path, images: np.ndarray, tmp_path: Path) -> None:
    """Its default engine, with files in float32 and in 8 bits; the bundled 8-bit model in its classic engine.

    Without 8 bits behind the pools, OpenCV 5 ended with "Assertion failed (inptype == CV_8SC1 …)".
    """
    env = install(f"opencv-python-headless=={version}.*", tmp_path / "opencv")
    np.save(tmp_path / "images.npy", images)
    classic = ["1"] if version == "5" else []  # cv2.dnn.ENGINE_CLASSIC
    for file, engine, tolerance in ((model, [], TOLERANCE), (small, [], ROUNDED), (BUNDLED, classic, ROUNDED)):
        result = ask(OPENCV, env, file, tmp_path / "images.npy", tmp_path / "answers.npy", *engine)
        assert result.returncode == 0 and result.stdout.startswith(f"{version}."), result.stderr
        answers, (expected, distance) = np.load(tmp_path / "answers.npy"), open_model(file).infer(images)
        np.testing.assert_allclose(answers, expected, atol=tolerance)
        assert (answers.argmax(1) == expected.argmax(1)).mean() >= 0.99
        distances = np.load(tmp_path / "answers.npy.distance.npy").ravel()
        assert distance is not None and np.corrcoef(distances, distance)[0, 1] > (0.9999 if file == model else 0.95)


# --- Keras -----------------------------------------------------------------------------------------------------------

SETTINGS = [{}, {"image_data_format": "channels_first", "floatx": "float16", "epsilon": 0.01}]
KERAS = """
import pathlib, sys, keras, numpy
for folder in map(pathlib.Path, sys.argv[1:]):
    model = keras.saving.load_model(folder / "model.keras")
    answers = model(numpy.load(folder / "images.npy"), training=False)
    numpy.save(folder / "answers.npy", keras.ops.convert_to_numpy(answers))
    print(keras.__version__, len(model.trainable_weights))
"""


@pytest.fixture(scope="module")
def keras_sources() -> list[Source]:
    """A network of the fast family, one with odd sides and strides, and the reference."""
    return [make_source(*SPECS[i]) for i in (0, 1, 3)]


def assert_keras_answers(sources: list[Source], home: Path, env: dict[str, str]) -> str:
    """Save networks, load them in the Keras of `env` under usual and unusual settings; its version."""
    folders, weights = [home / str(number) for number in range(len(sources))], []
    for folder, source in zip(folders, sources, strict=True):
        folder.mkdir()
        model = to_keras(source, import_keras())
        save(model, source.about, folder / "model.keras")
        np.save(folder / "images.npy", source.images)
        weights.append(len(model.trainable_weights))
    for settings in SETTINGS:
        (home / "keras.json").write_text(json.dumps(settings))
        result = ask(KERAS, env | {"KERAS_HOME": str(home), "KERAS_BACKEND": "torch"}, *folders)
        assert result.returncode == 0, result.stderr
        for folder, source in zip(folders, sources, strict=True):
            np.testing.assert_allclose(np.load(folder / "answers.npy"), source.expected, atol=1e-5)
            (folder / "answers.npy").unlink()
    version, *_ = result.stdout.split()
    assert result.stdout.splitlines() == [f"{version} {count}" for count in weights]
    return version


@pytest.mark.slow
def test_keras_under_unusual_settings(keras_sources: list[Source], tmp_path: Path) -> None:
    """With channels first, a vector that scales pixels was turned, and rows were multiplied instead of channels."""
    assert_keras_answers(keras_sources[:1], tmp_path, dict(os.environ))


@pytest.mark.acceptance
@pytest.mark.parametrize("version", ["==3.8.0", "==3.12.*", "==3.14.*", ">=3.15"])
def test_keras_from_the_oldest_to_the_newest(version: str, keras_sources: list[Source], tmp_path: Path) -> None:
    """The oldest of pyproject.toml, two in between, the newest. Before 3.15: "unexpected keyword argument"."""
    env = install(f"keras{version}", tmp_path / "keras")
    loaded = assert_keras_answers(keras_sources, tmp_path, env)
    assert (tmp_path / "keras" / f"keras-{loaded}.dist-info").is_dir()
