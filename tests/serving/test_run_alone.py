"""A finished run answers, is exported and scored without its training data: changed, moved, gone, never on a disk."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tenfold
from tenfold.data.dataset import Dataset
from tenfold.data.shapes import make_shapes
from tenfold.errors import DataError, ModelError
from tenfold.evaluation.compare import write_comparison
from tenfold.evaluation.evaluate import evaluate, write_scores
from tenfold.evaluation.report import write_report
from tenfold.serving import export as exporting
from tenfold.serving.card import write_card
from tenfold.serving.export import export, read_source
from tenfold.serving.runtime import open_model
from tenfold.serving.synthetic import synthetic_images
from tenfold.training import train as training
from tenfold.training.augment import Normalization
from tenfold.training.device import DeviceConfig
from tenfold.training.provenance import find_data, reload_dataset
from tenfold.training.recipe import Recipe
from tenfold.training.run import Run
from tests.support.process import Command, Invoke
from tests.support.served import process

CLASSES = ("disk", "star", "bar")
PLAN = DeviceConfig(torch.device("cpu"), torch.float32, 1, ())
OLD = Path(__file__).parents[1] / "runs" / "format-1"


@pytest.fixture(scope="module", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENFOLD_HOME", str(tmp_path_factory.mktemp("home")))
        yield
    signal.signal(signal.SIGTERM, before)


def write_images(root: Path, dataset: Dataset) -> Path:
    for number, (pixels, label) in enumerate(zip(dataset.test.images, dataset.test.labels, strict=True)):
        if dataset.classes[label] in CLASSES:
            path = root / dataset.classes[label] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return root


@pytest.fixture(scope="module")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty images of each of three classes."""
    return write_images(tmp_path_factory.mktemp("data") / "flowers", make_shapes(3, train=1, test=200))


@pytest.fixture(scope="module")
def trained(invoke: Invoke, flowers: Path, tiny_recipe: Path) -> dict[str, Any]:
    """What `tenfold train --no-report` says of a run on that folder, and its standard error."""
    words = ("--recipe", tiny_recipe, "--data", flowers, "--epochs", 8, "--val-size", 12, "--no-report", "--json")
    code, out, err = invoke("train", *words, "--out", flowers.parent / "run")
    assert code == 0, err
    return json.loads(out) | {"said": err}


@pytest.fixture
def run(trained: dict[str, Any], tmp_path: Path) -> Path:
    """A copy of that run elsewhere, without model.onnx: as an old one that was never exported."""
    copy = Path(shutil.copytree(trained["run"], tmp_path / "copied" / "run"))
    (copy / "model.onnx").unlink()
    opened = Run.open(copy)
    manifest = opened.read_json("manifest.json")
    del manifest["files"]["model.onnx"]
    opened.write_json("manifest.json", manifest)
    return copy


def gone(flowers: Path) -> None:
    shutil.rmtree(flowers)


def added(flowers: Path) -> None:
    Image.new("RGB", (32, 32), "red").save(flowers / "disk" / "new.png")


def new_class(flowers: Path) -> None:
    shutil.copytree(flowers / "disk", flowers / "plate")


def spoilt(flowers: Path) -> None:
    for path in flowers.rglob("*.png"):
        path.write_bytes(b"")


def replaced_by_a_file(flowers: Path) -> None:
    shutil.rmtree(flowers)
    flowers.write_text("moved to the other disk")


CHANGES = {
    gone: "synthetic images",
    replaced_by_a_file: "synthetic images",
    added: "other images",
    new_class: "synthetic images",
    spoilt: "synthetic images",
}


@pytest.fixture
def changed(flowers: Path, tmp_path: Path) -> Iterator[Callable[[Callable[[Path], None]], Path]]:
    """Do something to the folder; afterwards it is as it was."""
    saved = Path(shutil.move(flowers, tmp_path / "saved"))
    shutil.copytree(saved, flowers)

    def change(how: Callable[[Path], None]) -> Path:
        how(flowers)
        return saved

    yield change
    shutil.rmtree(flowers) if flowers.is_dir() else flowers.unlink(missing_ok=True)
    shutil.move(saved, flowers)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(make_shapes(9, train=1, test=1).test.images[0]).save(path)
    return path


# --- training leaves all that is needed ------------------------------------------------------------------------------


def torch_probabilities(run: Run, images: np.ndarray, temperature: float) -> np.ndarray:
    """By plain torch, float32."""
    model = run.load_model(PLAN)
    pixels = (images / 255 - np.array(model.pixels.mean)) / np.array(model.pixels.std)
    with torch.no_grad():
        logits = model.network(torch.from_numpy(pixels).float().permute(0, 3, 1, 2))
    return torch.softmax(logits / temperature, dim=1).numpy()


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
from tenfold.training import run

place = sys.argv.pop(1)
write_bytes = run.write_bytes


def struck(path, content):
    if path.name != "model.onnx" or place == "after":
        write_bytes(path, content)
    if path.name == "model.onnx":
        os.kill(os.getpid(), signal.SIGKILL)


run.write_bytes = struck
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
    killed = subprocess.run([sys.executable, "-c", CHILD, place, *map(str, words)], capture_output=True, text=True)
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
    monkeypatch.setattr(exporting, "to_onnx", lambda *words: right(*words[:-1], words[-1] * 1.5))
    words = ("--recipe", tiny_recipe, "--data", flowers, "--epochs", 8, "--json", "--out", tmp_path / "run")
    code, out, err = invoke("train", *words)
    assert code == 4 and "tenfold: trained and scored, but not exported: the file would differ" in err
    assert json.loads(out)["report_seconds"] > 0 and (tmp_path / "run" / "report.html").is_file()
    assert Run.open(tmp_path / "run").scored and not (tmp_path / "run" / "model.onnx").exists()


# --- a folder that is not what it was --------------------------------------------------------------------------------


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
    assert f" images it was checked on, probabilities within {said['max_abs_diff']:.1g}" in out
    code, out, err = invoke("predict", photo, "--model", run, "--json")
    assert code == 0, err
    images = np.array(Image.open(photo))[None]
    (expected,) = open_model(Path(trained["run"]) / "model.onnx").predict(images)
    assert json.loads(out)["probability"] == pytest.approx(expected.max(), abs=1e-5)
    Run.open(run).verify()
    assert open_model(run / "model.onnx").about == open_model(tmp_path / "x.onnx").about
    code, out, err = invoke("explain", run, photo, "--out", tmp_path / "maps", "--json")
    assert code == 0 and json.loads(out)["images"][0]["label"] == trained_label(expected), err


def trained_label(probabilities: np.ndarray) -> str:
    return sorted(CLASSES)[int(probabilities.argmax())]


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
    network = opened.load_model(PLAN).network
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


# --- eight bits, cards -----------------------------------------------------------------------------------------------


def test_eight_bits_need_images(
    invoke: Invoke, run: Path, changed: Callable[[Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`on` is refused, `auto` stays with float32 and says why; a folder of such images serves, be it another one."""
    saved, file = changed(gone), tmp_path / "x.onnx"
    code, out, err = invoke("export", run, "--int8", "on", "--out", file)
    assert (code, out, file.exists()) == (3, "", False)
    assert "8-bit files need images, to set ranges and to measure what is lost: give a folder of the run's" in err
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


# --- the run directory itself ----------------------------------------------------------------------------------------

READ_ONLY = """
import errno, os, sys
from tenfold import cli

run = sys.argv.pop(1)


def guard(event, words):
    writes = event == "open" and isinstance(words[2], int) and words[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if (writes or event in ("os.mkdir", "os.rename", "os.remove", "os.chmod")) and str(words[0]).startswith(run):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), words[0])


sys.addaudithook(guard)
cli.main()
"""


def test_a_run_on_a_read_only_disk_answers(trained: dict[str, Any], run: Path, photo: Path, tmp_path: Path) -> None:
    """From the file that training left. Without it, the error says how to have it elsewhere."""

    def tenfold(path: Path, *words: str | Path) -> "subprocess.CompletedProcess[str]":
        line = [sys.executable, "-c", READ_ONLY, str(path), *map(str, words)]
        return subprocess.run(line, capture_output=True, text=True, check=False)

    finished = Path(shutil.copytree(trained["run"], tmp_path / "finished"))
    answered = tenfold(finished, "predict", photo, "--model", finished, "--json")
    assert (answered.returncode, answered.stderr) == (0, "") and json.loads(answered.stdout)["label"] in CLASSES
    refused = tenfold(run, "predict", photo, "--model", run)
    assert refused.returncode == 7 and "Traceback" not in refused.stderr
    assert f"tenfold export {run} --out FILE.onnx writes it elsewhere, then use --model FILE.onnx" in refused.stderr
    assert tenfold(run, "export", run, "--out", tmp_path / "x.onnx").returncode == 0
    other = write_images(tmp_path / "other", make_shapes(8, train=1, test=40))
    scored = tenfold(run, "evaluate", run, "--data", other, "--json")
    assert scored.returncode == 0 and json.loads(scored.stdout)["test_images"] == 12, scored.stderr


def test_a_model_file_that_is_gone_is_written_again_and_a_damaged_one_is_named(
    invoke: Invoke, trained: dict[str, Any], changed: Callable[[Any], Path], photo: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(trained["run"], tmp_path / "run"))
    changed(gone)
    content = (run / "model.onnx").read_bytes()
    (run / "model.onnx").unlink()
    code, _, err = invoke("predict", photo, "--model", run)
    assert code == 0 and "its model is written as ONNX, once" in err
    assert (run / "model.onnx").read_bytes() == content
    (run / "model.onnx").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    code, _, err = invoke("predict", photo, "--model", run)
    assert code == 4 and f"model.onnx is damaged: write it again with tenfold export {run}" in err
    assert invoke("export", run)[0] == 0
    assert invoke("predict", photo, "--model", run)[0] == 0 and (run / "model.onnx").read_bytes() == content


def test_a_run_of_the_first_format_answers(command: Command, photo: Path, tmp_path: Path) -> None:
    """It noted neither its images nor a fingerprint of them; `shapes` is drawn, so its test images are there."""
    run = Path(shutil.copytree(OLD, tmp_path / "run"))
    result = command("export", run, "--json")
    assert result.returncode == 0 and json.loads(result.stdout)["verified_on"] == "test images", result.stderr
    answered = command("predict", photo, "--model", run, "--json")
    (expected,) = torch_probabilities(Run.open(run), np.array(Image.open(photo))[None], 1.0)
    assert json.loads(answered.stdout)["probability"] == pytest.approx(expected.max(), abs=1e-5)


@pytest.mark.parametrize("offline", [False, True])
def test_a_cifar10_run_is_exported_where_cifar10_is_not(
    command: Command, tiny_recipe: Path, tmp_path: Path, photo: Path, offline: bool
) -> None:
    """An empty cache, with and without a network: nothing is downloaded to check a file; npm would say that it came."""
    run = Run.create(tmp_path / "run", Recipe.from_json(tiny_recipe.read_bytes()), ENV | {"data": "cifar10"})
    from tenfold.training.model import build
    from tenfold.training.weights import describe_model

    network = build(run.recipe.network)
    run.save_model(network, describe_model(run.recipe.network, make_shapes(0, 1, 1).classes, 32, Normalization()))
    run.write_manifest()
    run.unlock()
    (tmp_path / "bin").mkdir()
    for name in ("npm", "curl"):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/called\nexit 1\n")
        (tmp_path / "bin" / name).chmod(0o755)
    env = os.environ | {"TENFOLD_HOME": str(tmp_path / "home"), "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    env |= {"TENFOLD_CIFAR10_URL": "http://127.0.0.1:9/none.tar.gz"} | ({"TENFOLD_OFFLINE": "1"} if offline else {})
    result = command("export", run.path, "--json", env=env)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["verified_on"] == "synthetic images"
    assert "cifar10, which " in result.stderr and "is not in the cache of this machine" in result.stderr
    assert command("predict", photo, "--model", run.path, env=env).returncode == 0
    assert not (tmp_path / "called").exists() and not list(tmp_path.glob("home/**/cifar10*"))


# --- data that only Python has ---------------------------------------------------------------------------------------

ENV = {"seed": 0, "data": "mine", "device": "cpu", "dtype": "float32"}


def make_mine(size: int = 16) -> Dataset:
    """Three classes of shapes of another size, which have no name that a command knows."""
    drawn = make_shapes(2, train=400, test=200, size=size)
    keep = [drawn.classes.index(name) for name in CLASSES]
    train, test = (part[np.flatnonzero(np.isin(part.labels, keep))] for part in (drawn.train, drawn.test))
    parts = [
        replace(part, labels=np.searchsorted(np.sort(keep), part.labels).astype(np.uint8)) for part in (train, test)
    ]
    return Dataset("mine", tuple(drawn.classes[label] for label in sorted(keep)), *parts)


@pytest.fixture(scope="module")
def mine() -> Dataset:
    return make_mine()


@pytest.fixture(scope="module")
def in_memory(mine: Dataset, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained and scored from Python, as the README shows it."""
    recipe = replace(Recipe.from_json(tiny_recipe.read_bytes()), val_size=20).with_epochs(6.0)
    trained = training.train(recipe, mine, tmp_path_factory.mktemp("mine") / "run", device="cpu")
    write_scores(trained.run, evaluate(trained.run, mine, trained.plan), {})
    trained.run.unlock()
    return trained.run.path


@pytest.fixture
def mine_run(in_memory: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(in_memory, tmp_path / "mine"))


def test_a_run_trained_from_python_is_used_by_every_command_that_needs_no_images(
    invoke: Invoke, mine_run: Path, mine: Dataset, photo: Path, tmp_path: Path
) -> None:
    scores = evaluate(Run.open(mine_run), mine).scores
    code, out, err = invoke("evaluate", mine_run, "--json")
    said = json.loads(out)
    assert code == 0 and {name: said[name] for name in scores} == scores
    assert "was trained on a data set made in Python, called 'mine', that no command can load" in err
    assert tenfold.evaluate(Run.open(mine_run)).scores == scores
    code, out, err = invoke("export", mine_run, "--json")
    assert code == 0 and json.loads(out)["verified_on"] == "synthetic images", err
    code, out, _ = invoke("predict", photo, "--model", mine_run, "--json")
    assert code == 0 and json.loads(out)["label"] in CLASSES
    assert invoke("explain", mine_run, photo, "--out", tmp_path / "maps")[0] == 0
    folder = write_images(tmp_path / "folder", make_shapes(8, train=1, test=40))
    code, out, _ = invoke("evaluate", mine_run, "--data", folder, "--json")
    assert code == 0 and json.loads(out)["test_images"] == 12
    code, out, _ = invoke("export", mine_run, "--data", folder, "--json")
    assert code == 0 and json.loads(out)["verified_on"] == "other images"


def test_where_its_images_are_needed_the_call_in_python_is_named(
    invoke: Invoke, mine_run: Path, mine: Dataset, tmp_path: Path
) -> None:
    """And that call works."""
    run, page = Run.open(mine_run), tmp_path / "page.html"
    other = Path(shutil.copytree(mine_run, tmp_path / "other"))
    called = "call tenfold.evaluation.{} in Python"
    report = called.format("report.write_report(run, dataset, tenfold.evaluate(run, dataset))")
    compare = called.format("compare.write_comparison(paths, out, dataset)")
    audit = called.format("audit.run_audit(Subject(run, dataset, tenfold.evaluate(run, dataset)), plan)")
    words = {report: ("report", mine_run), compare: ("compare", mine_run, other, "--out", page)}
    for call, asked in (words | {audit: ("audit", mine_run)}).items():
        code, _, err = invoke(*asked)
        assert code == 3 and err.strip().endswith(call)
    with run.locked():
        write_report(run, mine, tenfold.evaluate(run, mine))
    assert (
        "tenfold.train(tenfold.find_recipe(&#34;recipe.json&#34;), dataset, Path(&#34;again&#34;), seed=0)"
        in (mine_run / "report.html").read_text()
    )
    assert write_comparison([mine_run, other], page, mine) == page


def test_its_own_images_are_handed_over_for_eight_bits_and_a_card(
    mine_run: Path, mine: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.open(mine_run)
    with pytest.raises(DataError, match="8-bit files need images"):
        export(run, int8="on")
    monkeypatch.setattr(exporting, "MOST_LOSS", 1.0)
    with run.locked():  # as a run is that was just trained: it is in use by this very process
        exported = export(run, int8="on", data=mine)
    assert exported.quantized and exported.verified_on == "test images" and exported.verified_images == len(mine.test)
    right = open_model(mine_run / "model.onnx").predict(mine.test.images).argmax(1) == mine.test.labels
    assert exported.accuracy == pytest.approx(right.mean(), abs=0.02)
    text = write_card(run, mine_run / "model.onnx", mine).read_text()
    assert f"On {len(mine.test)} test images" in text and "```python\ntenfold.train(" in text
    grey = np.repeat(mine.test.images.mean(-1, keepdims=True), 3, -1).astype(np.uint8)
    last_bit = mine.test.images ^ (np.arange(mine.test.images.size).reshape(mine.test.images.shape) % 97 == 0)
    parts = {"fewer": mine.test[:-1], "grey": replace(mine.test, images=grey // 2)}
    parts |= {"relabelled": replace(mine.test, labels=mine.test.labels[::-1])}
    parts |= {"drawn elsewhere": replace(mine.test, images=last_bit.astype(np.uint8))}
    own = {name: find_data(run, replace(mine, test=part)).own for name, part in parts.items()}
    assert own == {"fewer": False, "grey": False, "relabelled": False, "drawn elsewhere": True}
    with pytest.raises(DataError, match="holds no test images of the kind"):
        export(run, data=make_mine(size=32))


def test_an_interrupted_one_resumes_with_its_data_handed_over(
    invoke: Invoke, mine: Dataset, tiny_recipe: Path, in_memory: Path, tmp_path: Path
) -> None:
    """To the same bits; without it, or with other data, nothing is trained."""
    run = Path(shutil.copytree(in_memory, tmp_path / "run"))
    for name in ("manifest.json", "results.json", "model.safetensors"):
        (run / name).unlink()
    code, _, err = invoke("train", "--resume", "--out", run)
    assert code == 3 and "call tenfold.training.train.resume(out, data=dataset) in Python" in err
    with pytest.raises(DataError, match="its last steps would see other images"):
        training.resume(run, data=replace(mine, train=mine.train[:-1]))
    training.resume(run, data=mine).run.unlock()
    assert (run / "model.safetensors").read_bytes() == (in_memory / "model.safetensors").read_bytes()


def test_data_that_has_a_known_name_but_is_other_is_not_taken_for_it(
    invoke: Invoke, tiny_recipe: Path, tmp_path: Path
) -> None:
    """A part of `shapes`, cut in Python: validation images would be others, and the temperature with them."""
    whole = make_shapes(train=2000, test=500)
    part = replace(whole, train=whole.train[:200])
    recipe = replace(Recipe.from_json(tiny_recipe.read_bytes()), val_size=20).with_epochs(1.0)
    trained = training.train(recipe, part, tmp_path / "run", device="cpu")
    scores = write_scores(trained.run, evaluate(trained.run, part, trained.plan), {})
    trained.run.unlock()
    code, out, err = invoke("evaluate", tmp_path / "run", "--json")
    assert code == 0 and "a data set made in Python, called 'shapes'" in err
    assert json.loads(out)["calibration"] == scores["calibration"]
    code, out, _ = invoke("evaluate", tmp_path / "run", "--data", "shapes", "--json")
    assert code == 0 and json.loads(out)["val_accuracy"] is None  # as other data


# --- what it is checked on -------------------------------------------------------------------------------------------


SYNTHETIC_MEANS = [
    [130.72, 137.65, 136.72, 132.62, 138.21, 137.28, 129.09, 135.27, 134.64, 129.21, 134.8, 134.47],
    [130.36, 122.1, 117.36, 131.22, 123.88, 118.28, 129.28, 123.33, 117.06, 129.59, 122.21, 117.14],
    [123.57, 127.17, 123.75, 124.46, 128.0, 124.99, 123.87, 127.31, 124.75, 125.13, 127.58, 125.16],
    [124.14, 123.57, 123.16, 124.59, 124.14, 124.09, 122.62, 122.43, 121.64, 121.7, 121.57, 120.94],
    [124.75, 126.55, 127.36, 129.81, 122.32, 125.44, 133.49, 125.86, 126.88, 128.46, 127.58, 129.56],
]
"""Of each hundred images: mean red, green and blue of the upper left, upper right, lower left and lower right."""


def test_synthetic_images_are_always_the_same_and_of_any_size() -> None:
    """As they were on 2026-11-29: what a file was checked on is known.

    Where a CPU rounds otherwise, a value differs by 1 here and there: not the mean of 25,600 by 0.02.
    """
    images = synthetic_images(32)
    assert images.dtype == np.uint8 and images.shape == (500, 32, 32, 3)
    quarters = images.reshape(5, 100, 2, 16, 2, 16, 3).mean(axis=(1, 3, 5)).reshape(5, 12)
    np.testing.assert_allclose(quarters, SYNTHETIC_MEANS, atol=0.02)
    assert len(np.unique(images.reshape(500, -1), axis=0)) == 500
    for size in (1, 13, 160):
        assert synthetic_images(size).shape[1:] == (size, size, 3)
    assert 32 <= len(synthetic_images(160)) < 500


WRONG: dict[str, Callable[[Any, Any], tuple[Any, Any, float]]] = {
    "temperature": lambda network, pixels: (network, pixels, 1.05),
    "normalisation": lambda network, pixels: (
        network,
        Normalization(pixels.mean, tuple(1.05 * x for x in pixels.std)),
        1.0,
    ),
    "mean": lambda network, pixels: (network, Normalization(tuple(x + 0.01 for x in pixels.mean), pixels.std), 1.0),
    "colours": lambda network, pixels: (network, Normalization(pixels.mean[::-1], pixels.std[::-1]), 1.0),
    "bias": lambda network, pixels: (scaled(network, "groups.2.norms.1.bias", 0.0), pixels, 1.0),
    "norm": lambda network, pixels: (scaled(network, "groups.1.norms.1.running_var"), pixels, 1.0),
    "filters": lambda network, pixels: (scaled(network, "groups.0.convs.0.weight"), pixels, 1.0),
}


def scaled(network: torch.nn.Module, name: str, factor: float = 1.05) -> torch.nn.Module:
    with torch.no_grad():
        network.state_dict()[name].mul_(factor)  # it shares the network's memory
    return network


@pytest.mark.parametrize("what", WRONG)
def test_a_graph_that_is_a_little_wrong_shows_on_them(
    mine_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    right = exporting.to_onnx

    def wrong(network: Any, pixels: Any, classes: int, size: int, temperature: float) -> Any:
        network, pixels, factor = WRONG[what](network, pixels)
        return right(network, pixels, classes, size, temperature * factor)

    monkeypatch.setattr(exporting, "to_onnx", wrong)
    with pytest.raises(ModelError, match="not exported: the file would differ from the network"):
        export(Run.open(mine_run), tmp_path / "x.onnx")


def test_on_them_a_network_gives_varied_answers_and_is_often_unsure(mine_run: Path) -> None:
    """Else a wrong temperature, or a class that is never named, would not show."""
    expected = read_source(Run.open(mine_run)).expected
    assert set(expected.argmax(1)) == {0, 1, 2}
    assert (expected.max(1) < 0.95).mean() > 0.2
    bundled = open_model().predict(synthetic_images(32))
    assert len(set(bundled.argmax(1))) >= 8 and (bundled.max(1) < 0.95).mean() > 0.5


def test_classes_that_tie_are_equally_good_first_guesses() -> None:
    """A network that learned nothing answers the same to all: the order of sums decides, and must not end a run."""
    expected = np.full((100, 4), 0.25, np.float32)
    answers = expected.copy()
    answers[:, 3] += 1e-7
    exporting.check(answers, expected)
    answers[:, 3] += 5e-4
    expected[:, 0] += 2e-4
    with pytest.raises(ModelError, match=r"agree on 0\.00% of the images"):
        exporting.check(answers, expected)
