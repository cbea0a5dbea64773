"""Exported files: what they say, that they answer as the network does, and that none is written that does not."""

import json
import logging
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from tenfold.errors import BusyError, ModelError, UsageError
from tenfold.serving import export as exporting
from tenfold.serving import quantize, source
from tenfold.serving.export import export, pack
from tenfold.serving.model_file import ModelMetadata, verify
from tenfold.serving.predictor import open_bytes, open_model
from tenfold.training.device import DeviceConfig
from tenfold.training.distance import FILE, FeatureDistance
from tenfold.training.features import activations
from tenfold.training.lock import Lock
from tenfold.training.provenance import reload_dataset
from tenfold.training.run import Run

SPEEDS = ("float32, onnxruntime", "int8, onnxruntime", "int8, openvino")
CPU = DeviceConfig(torch.device("cpu"), torch.float32, 1, ())


def expected(run: Run, images: np.ndarray) -> np.ndarray:
    """Probabilities of the run's network by plain torch, at the temperature of the fixture."""
    model = run.load_model(CPU)
    pixels = (images / 255 - np.array(model.normalization.mean)) / np.array(model.normalization.std)
    with torch.no_grad():
        logits = model.network(torch.from_numpy(pixels).float().permute(0, 3, 1, 2))
    return torch.softmax(logits / 0.8, dim=1).numpy()


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_file_answers_as_the_network_does(run: Run, small: Path, model: Path, runtime: str) -> None:
    test = reload_dataset(run).test
    answers = expected(run, test.images)
    if runtime == "onnxruntime":
        np.testing.assert_allclose(open_model(model, runtime).predict(test.images), answers, atol=1e-4)
    right = (answers.argmax(1) == test.labels).mean()
    small_right = (open_model(small, runtime).predict(test.images).argmax(1) == test.labels).mean()
    assert right > 0.5 and small_right > right - 0.01


def test_the_file_says_all_that_is_needed_and_no_path(run: Run, model: Path, small: Path) -> None:
    about = open_model(model).about
    results = run.require_scores()
    assert about.classes == reload_dataset(run).classes
    assert (about.size, about.resize, about.temperature, about.threshold) == (32, "stretch", 0.8, 0.6)
    assert about.accuracy == results["test_accuracy_single_view"] and not about.quantized
    assert about.made_with == {"tenfold": "0.1.0", "recipe": "tiny", "seed": 0, "data": "shapes"}
    quantized = open_model(small).about
    assert replace(quantized, quantized=False, accuracy=about.accuracy) == about and quantized.quantized
    assert quantized.accuracy == pytest.approx(about.accuracy, abs=0.01)
    for content in (model.read_bytes(), small.read_bytes()):
        assert not any(part.encode() in content for part in ("/tmp", str(Path.home()), str(run.path), "site-packages"))
    assert about.distance is not None and about.distance["images_needed"] == 59 and about.distance_threshold == 3.0
    assert small.stat().st_size < 0.7 * model.stat().st_size  # a tiny network is mostly names, and its distance


def test_the_run_vouches_for_its_file(run: Run) -> None:
    run.verify()
    assert "model.onnx" in json.loads((run.path / "manifest.json").read_text())["files"]


def test_eight_bit_convolutions_but_the_first(small: Path) -> None:
    graph = onnx.load(small).graph
    made = {output: node.op_type for node in graph.node for output in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    inputs = [made.get(node.input[0]) for node in convolutions]
    assert inputs == ["Add"] + ["DequantizeLinear"] * 6
    behind_pools = [
        node.op_type
        for node in graph.node
        for pool in graph.node
        if pool.op_type == "MaxPool" and pool.output[0] in node.input
    ]
    assert behind_pools == ["QuantizeLinear"] * 3


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_file_that_answers_otherwise_is_not_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong temperature; without the check the file is there. Nothing half-written stays either."""
    right = exporting.to_onnx
    monkeypatch.setattr(exporting, "to_onnx", lambda *words, **more: right(*words[:-1], words[-1] * 1.05, **more))
    with pytest.raises(ModelError, match=r"differ from the network by 0\.\d+ in a probability \(at most 0.001\)"):
        export(run, tmp_path / "out" / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_file_with_other_distances_is_not_written(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the check the file is there."""
    right = exporting.to_onnx

    def wrong(*words: object, distance: FeatureDistance) -> onnx.ModelProto:
        return right(*words, distance=replace(distance, biases=distance.biases + 0.1))  # type: ignore[arg-type]

    monkeypatch.setattr(exporting, "to_onnx", wrong)
    with pytest.raises(ModelError, match=r"differ from the network by 0\.\d+ in a distance \(at most 0.01\)"):
        export(run, tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_distances_are_those_of_the_network_also_with_eight_bits(run: Run, model: Path, small: Path) -> None:
    """Those of float32 to the digits that it has; with 8 bits, about as many images lie beyond a threshold."""
    test = reload_dataset(run).test
    network = run.load_model(CPU)
    seen = activations(network.network, torch.from_numpy(np.array(test.images)), network.normalization, CPU)
    assert seen.early is not None
    found = FeatureDistance.from_bytes((run.path / FILE).read_bytes(), FILE)
    expected = found(seen.features.numpy(), seen.early.numpy())
    assert found.early is not None and (found.early(seen.early.numpy()) > 0).mean() > 0.01
    plain, quantized = (open_model(file).infer(test.images).distance for file in (model, small))
    assert plain is not None and quantized is not None and np.ptp(expected) > 3
    np.testing.assert_allclose(plain, expected, atol=1e-3, rtol=1e-3)
    assert np.corrcoef(quantized, expected)[0, 1] > 0.99
    assert abs((quantized > 3.0).mean() - (expected > 3.0).mean()) <= 0.02


def test_a_run_without_a_distance_gives_a_file_without_one(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As runs of earlier versions: one output, and nothing about a second one."""
    monkeypatch.setattr(source, "read_distance", lambda run: None)
    exported = export(run, tmp_path / "x.onnx")
    opened = open_model(tmp_path / "x.onnx")
    assert exported.distance_max_abs_diff is None and opened.about.distance is None
    assert [output.name for output in onnx.load(tmp_path / "x.onnx").graph.output] == ["probabilities"]
    assert opened.infer(reload_dataset(run).test.images[:2]).distance is None
    metadata = json.loads(json.dumps(opened.about.to_json()))
    del metadata["distance"]  # as they wrote it
    assert ModelMetadata.from_json(metadata) == opened.about


def test_other_first_guesses_are_refused() -> None:
    """One image of a thousand may have another first guess, two may not; not-a-number never passes."""
    answers = np.full((1000, 2), 0.5, np.float32)
    answers[:, 0] += 1e-4
    other = answers.copy()
    other[0] = other[0, ::-1]
    exporting.check(other, answers)
    other[1] = other[1, ::-1]
    with pytest.raises(ModelError, match=r"agree on 99\.80% of the images \(at least 99\.9%\)"):
        exporting.check(other, answers)
    with pytest.raises(ModelError):
        exporting.check(answers * np.nan, answers)


@pytest.mark.slow
def test_eight_bits_that_lose_much_are_refused_or_left(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fast_int8 = dict(zip(SPEEDS, (1.0, 2.0, 2.0), strict=True))
    accuracies = iter([0.9, 0.9, 0.8969] * 2)  # float32, then 8 bits in both runtimes
    monkeypatch.setattr(exporting, "_accuracy", lambda *_: next(accuracies))
    with pytest.raises(ModelError, match=r"with 8 bits 0\.31% of the test images are lost, at most 0\.3%"):
        export(run, tmp_path / "x.onnx", "on")
    monkeypatch.setattr(exporting, "time_alternately", lambda *_: fast_int8)
    exported = export(run, tmp_path / "x.onnx", "auto")
    assert not exported.quantized and not open_model(tmp_path / "x.onnx").about.quantized
    assert "89.69% right" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("int8", "quantized"), [(101.0, True), (99.0, False)])
def test_auto_keeps_the_faster(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, int8: float, quantized: bool
) -> None:
    """By the runtime that will run it."""
    monkeypatch.setattr(exporting, "_accuracy", lambda *_: 0.9)
    monkeypatch.setattr(exporting, "time_alternately", lambda *_: dict(zip(SPEEDS, (100, int8, 90), strict=True)))
    assert export(run, tmp_path / "x.onnx", "auto").quantized is quantized
    monkeypatch.setattr(exporting, "time_alternately", lambda *_: dict(zip(SPEEDS, (100, 90, int8), strict=True)))
    assert not export(run, tmp_path / "x.onnx", "auto").quantized
    monkeypatch.setenv("TENFOLD_RUNTIME", "openvino")
    assert export(run, tmp_path / "x.onnx", "auto").quantized is quantized


def test_a_run_of_data_known_by_name_has_no_folder(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="was trained on shapes, not on a folder: leave --data out"):
        reload_dataset(run, tmp_path)


def test_a_run_in_use_is_left_alone(run: Run) -> None:
    lock = Lock(run.path)
    lock.acquire("now")
    try:
        with pytest.raises(BusyError, match="is in use by process"):
            export(run)
    finally:
        lock.release()


def test_weights_that_are_damaged_are_not_exported(run: Run, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run.path, tmp_path / "copy"))
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged"):
        export(Run.open(copy))


# --- opening ---------------------------------------------------------------------------------------------------------


def test_damage_is_noticed_wherever_it_is(model: Path) -> None:
    """Two hundred flipped bits and truncations. Without the digest most of them load and answer otherwise."""
    content, rng = model.read_bytes(), random.Random(0)
    for _ in range(150):
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        with pytest.raises(ModelError, match=r"x is (damaged|not a model)"):
            verify(bytes(damaged), "x")
    for _ in range(50):
        with pytest.raises(ModelError, match="cut short"):
            verify(content[: rng.randrange(len(content))], "x")
    assert len(verify(content, "x")) == 64


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x80\x04\x95", "is a pickle or an archive, which is never opened"),
        (b"PK\x03\x04data.pkl", "is a pickle or an archive, which is never opened"),
        (b"", "is not a model that tenfold exported"),
        (b"\x89PNG\r\n", "is not a model that tenfold exported"),
    ],
    ids=["pickle", "torch", "empty", "picture"],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=said):
        open_model(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent\.onnx: cannot be read \(No such file"):
        open_model(tmp_path / "absent.onnx")
    with pytest.raises(ModelError, match=r"cannot be read \(Is a directory"):
        open_model(tmp_path)


def test_foreign_onnx_is_refused(model: Path, tmp_path: Path) -> None:
    """From another exporter: sound, but without what tenfold writes."""
    foreign = onnx.load(model)
    del foreign.metadata_props[:]
    (tmp_path / "x.onnx").write_bytes(foreign.SerializeToString())
    with pytest.raises(ModelError, match="is not a model that tenfold exported"):
        open_model(tmp_path / "x.onnx")


def test_a_graph_that_is_not_what_the_file_says_is_refused(model: Path) -> None:
    """Sealed, but not by `export`: other classes, other size, another graph, nonsense."""
    loaded, about = onnx.load(model), open_model(model).about
    with pytest.raises(ModelError, match="does not give a probability for each of 3 classes"):
        open_bytes(pack(loaded, replace(about, classes=("a", "b", "c"))), "x")
    with pytest.raises(ModelError, match="x: onnxruntime cannot run it"):
        open_bytes(pack(loaded, replace(about, size=16)), "x")
    with pytest.raises(ModelError, match=r"its metadata is not understood \(resize is missing or wrong\)"):
        open_bytes(pack(loaded, replace(about, resize="zoom")), "x")
    with pytest.raises(ModelError, match=r"threshold is missing or wrong"):
        open_bytes(pack(loaded, replace(about, threshold=1.5)), "x")
    for number in loaded.graph.initializer:
        if number.name == "head.weight":
            number.raw_data = np.full(160, np.nan, np.float32).tobytes()
    with pytest.raises(ModelError, match="does not give a probability"):
        open_bytes(pack(loaded, about), "x")
    del loaded.graph.node[3]
    with pytest.raises(ModelError, match="x: onnxruntime cannot run it"):
        open_bytes(pack(loaded, about), "x")


def test_opening_needs_no_torch_and_reports_to_nobody(small: Path, tmp_path: Path) -> None:
    """In a process of its own, with OpenVINO: its reporter must never be imported.

    ONNX Runtime leaves an identifier of the machine and a queue of reports in the user's folders, unless turned off.
    """
    home = tmp_path / "home"
    home.mkdir()
    own = {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    env = {name: value for name, value in os.environ.items() if not name.startswith("ORT_")} | own
    code = (
        "import sys, tenfold\n"
        "from tenfold.serving.predictor import open_model\n"
        "open_model(sys.argv[1], 'onnxruntime')\n"
        "tenfold.Predictor.load(sys.argv[1])\n"
        "model = open_model(sys.argv[1], 'openvino')\n"
        "print(model.runtime.split()[0], sys.modules.get('openvino_telemetry'))\n"
        "print([name for name in ('torch', 'pandas', 'onnx', 'matplotlib', 'pydantic') if name in sys.modules])"
    )
    words = [sys.executable, "-c", code, str(small)]
    result = subprocess.run(words, capture_output=True, text=True, check=True, env=env)
    assert result.stdout == "openvino None\n[]\n" and result.stderr == ""
    assert list(home.rglob("*")) == []


def test_quantising_leaves_the_root_logger_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It set one up that printed all messages after it a second time, as "INFO:tenfold:…"."""
    monkeypatch.setattr(logging.root, "handlers", [])
    with quantize._without_log():
        logging.warning("as the quantiser calls it")
        assert logging.root.handlers
    assert logging.root.handlers == []
