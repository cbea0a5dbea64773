"""The .keras file: it answers as the network does, in Keras alone; what cannot be written is said and not written."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tenfold.errors import BusyError, ModelError
from tenfold.serving import keras_file
from tenfold.serving.keras_file import export_keras, import_keras, save, to_keras
from tenfold.training.augment import Normalization
from tenfold.training.lock import Lock
from tenfold.training.networks import WhitenedSpec
from tenfold.training.provenance import reload_dataset
from tenfold.training.run import Run
from tenfold.training.summary import count_parameters
from tests.support.networks import SPECS, make_source
from tests.support.process import Invoke


@pytest.fixture(scope="module")
def file(run: Run) -> Path:
    """The run's .keras file."""
    exported = export_keras(run)
    assert (exported.format, exported.quantized, exported.top1_agreement) == ("keras", False, 1.0)
    assert exported.max_abs_diff < 1e-5 and exported.runtime.startswith("Keras 3.")
    return Path(exported.path)


@pytest.mark.parametrize(
    ("spec", "normalization", "classes", "size", "temperature"),
    SPECS,
    ids=["fast", "odd", "strided", "reference", "large"],
)
def test_layers_answer_as_the_network_does(
    spec: WhitenedSpec, normalization: Normalization, classes: int, size: int, temperature: float
) -> None:
    """Odd sides, even kernels, strides, residuals, and a last block of more than a pixel, flattened channels last."""
    source, keras = make_source(spec, normalization, classes, size, temperature), import_keras()
    model = to_keras(source, keras)
    answers = keras.ops.convert_to_numpy(model(source.images, training=False))
    assert source.expected.max() - source.expected.min() > 0.01
    np.testing.assert_allclose(answers, source.expected, atol=1e-5)
    assert model.inputs[0].dtype == "uint8" and model.count_params() == count_parameters(source.model.network)


def test_the_reference_keeps_its_norms_and_dropout() -> None:
    """As the reference system saved it: Keras's own numbers of parameters, and layers that go on learning."""
    model = to_keras(make_source(*SPECS[3]), import_keras())
    kinds = [type(layer).__name__ for layer in model.layers]
    assert (kinds.count("BatchNormalization"), kinds.count("Dropout"), kinds.count("Conv2D")) == (5, 3, 22)
    assert sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) == 16_998_986
    norm = next(layer for layer in model.layers if type(layer).__name__ == "BatchNormalization")
    assert (norm.momentum, norm.epsilon) == (0.99, 1e-3)


def test_what_the_file_says_and_what_it_does_not(run: Run, file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        about = json.loads(archive.read("tenfold.json"))
        content = b"".join(archive.read(name) for name in archive.namelist())
    assert about["classes"] == list(reload_dataset(run).classes)
    assert (about["temperature"], about["threshold"], about["resize"], about["size"]) == (0.8, 0.6, "stretch", 32)
    assert not any(part.encode() in content for part in ("/tmp", str(Path.home()), str(run.path), "site-packages"))
    run.verify()
    assert "model.keras" in json.loads((run.path / "manifest.json").read_text())["files"]


def test_the_configuration_holds_what_the_layers_need_and_no_more(tmp_path: Path) -> None:
    """Keras 3.8 refuses arguments that it does not know, as the 3.15 that writes files has some."""
    source = make_source(*SPECS[3])
    save(to_keras(source, import_keras()), source.about, tmp_path / "x.keras")
    with zipfile.ZipFile(tmp_path / "x.keras") as archive:
        config = json.loads(archive.read("config.json"))
    layers = {layer["class_name"]: layer["config"] for layer in config["config"]["layers"]}
    assert layers["InputLayer"] == {"name": "images", "dtype": "uint8", "batch_shape": [None, 32, 32, 3]}
    named = {name: {**layer, "name": ""} for name, layer in layers.items()}
    plain = {"name": "", "dtype": "float32"}
    assert named["Dense"] == {**plain, "units": 10, "use_bias": True}
    assert named["BatchNormalization"] == {**plain, "axis": -1, "momentum": 0.99, "epsilon": 1e-3}
    same = {"strides": [1, 1], "padding": "same", "use_bias": True, "data_format": "channels_last"}
    assert named["Conv2D"] == {**plain, "filters": 512, "kernel_size": [3, 3], **same} | {
        "kernel_size": layers["Conv2D"]["kernel_size"]
    }
    assert (config["compile_config"], config["registered_name"]) == ({}, "Functional")


@pytest.mark.slow
def test_the_users_settings_are_neither_read_nor_written(tmp_path: Path) -> None:
    """With settings that name an engine that is not there: Keras would fail at its import if it read them."""
    settings = tmp_path / "keras.json"
    settings.write_text('{"backend": "jax", "floatx": "float16"}')
    code = (
        "import os; before = dict(os.environ)\n"
        "from tenfold.serving.keras_file import import_keras\n"
        "kept = [name for name in before if name.startswith('KERAS_')]\n"
        "engine = import_keras().backend.backend()\n"
        "print(engine, len(kept) == 2 and all(os.environ.get(name) == before[name] for name in kept))"
    )
    env = os.environ | {"KERAS_HOME": str(tmp_path), "KERAS_BACKEND": "jax"}
    result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["torch", "True"]
    assert list(tmp_path.iterdir()) == [settings] and "float16" in settings.read_text()


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_file_that_answers_otherwise_is_not_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = keras_file._Layers.end
    monkeypatch.setattr(keras_file._Layers, "end", lambda self, logits, heat: right(self, logits, heat * 1.05))
    with pytest.raises(ModelError, match=r"differ from the network by 0\.\d+ in a probability \(at most 0.001\)"):
        export_keras(run, tmp_path / "x.keras")
    assert list(tmp_path.iterdir()) == []


def test_a_step_without_a_keras_layer_is_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(keras_file._FUNCTIONS, torch.nn.functional.gelu)
    with pytest.raises(ModelError, match=r"has a step .*gelu.*, for which this version knows no Keras layer"):
        export_keras(run, tmp_path / "x.keras")
    assert list(tmp_path.iterdir()) == []


def test_a_run_in_use_is_left_alone(run: Run) -> None:
    lock = Lock(run.path)
    lock.acquire("now")
    try:
        with pytest.raises(BusyError, match="is in use by process"):
            export_keras(run)
    finally:
        lock.release()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--to", "tflite"], 2, "unknown export format 'tflite'; known are keras, onnx"),
        (["--to", "keras", "--int8", "auto"], 2, "--int8 is not for --to keras: leave it out"),
        (["--to", "keras", "--card"], 2, "--card is not for --to keras: leave it out"),
        (["--to", "keras", "--out", "x.h5"], 2, "x.h5: its name must end in .keras"),
        (["--to", "keras"], 4, "absent is not a run directory"),
    ],
)
def test_bad_input_is_one_line(invoke: Invoke, tmp_path: Path, words: list[str], code: int, said: str) -> None:
    result = invoke("export", tmp_path / "absent", *words, cwd=tmp_path)
    assert result.returncode == code and said in result.stderr and "Traceback" not in result.stderr
    assert result.stdout == "" and list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_without_keras_its_extra_is_named(tmp_path: Path) -> None:
    code = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'keras' else find(name, *rest)\n"
        "from tenfold.cli import main\n"
        "sys.argv = ['tenfold', 'export', 'run', '--to', 'keras']\n"
        "sys.exit(main())"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2 and "this needs keras of the extra 'keras'" in result.stderr


# --- real TensorFlow -------------------------------------------------------------------------------------------------


@pytest.mark.acceptance
@pytest.mark.parametrize("spec", [0, 3], ids=["fast", "reference"])
def test_tensorflow_opens_it_with_nothing_of_ours(spec: int, tmp_path: Path, run: Run) -> None:
    """256 images in a process of its own that can import neither tenfold nor torch: ≤ 1e-3, the same first guesses."""
    source = make_source(*SPECS[spec])
    images = np.array(reload_dataset(run).test.images[:256])
    with torch.no_grad():
        logits = source.model.network(source.model.normalization.normalize(torch.from_numpy(images)))
    save(to_keras(source, import_keras()), source.about, tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name.partition('.')[0] in ('torch', 'tenfold'): raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import keras, numpy\n"
        "model = keras.saving.load_model('model.keras')\n"
        "numpy.save('answers.npy', model.predict(numpy.load('images.npy'), verbose=0))\n"
        "print(keras.backend.backend())"
    )
    settings = {"KERAS_BACKEND": "tensorflow", "KERAS_HOME": str(tmp_path), "TF_CPP_MIN_LOG_LEVEL": "3"}
    words = [sys.executable, "-c", code]
    result = subprocess.run(words, cwd=tmp_path, env=os.environ | settings, capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stdout) == (0, "tensorflow\n"), result.stderr
    answers, expected = np.load(tmp_path / "answers.npy"), torch.softmax(logits, 1).numpy()
    assert np.abs(answers - expected).max() <= 1e-3
    assert (answers.argmax(1) == expected.argmax(1)).all()
