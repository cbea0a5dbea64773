"""Runs of every format version that was ever written keep loading: one of each lies in tests/runs."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import typer

import tenfold
from tenfold.cli import app
from tenfold.data.resize import OLD_RESIZES
from tenfold.data.shapes import make_shapes
from tenfold.evaluation.evaluate import evaluate
from tenfold.serving.model_file import ABOUT, DIGEST, seal
from tenfold.serving.predictor import BUNDLED, open_bytes
from tenfold.training.manifest import FORMAT_VERSION
from tenfold.training.run import Run
from tenfold.training.weights import MODEL_FORMAT

RUNS = Path(__file__).parent / "runs"


def test_every_format_has_a_run() -> None:
    """Whichever format changes, a run of before stays in tests/runs."""
    described = {Run.open(path).read_json("model.json")["format"] for path in RUNS.iterdir()}
    assert described == set(range(1, MODEL_FORMAT + 1))


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION + 1))
def test_an_old_run_scores_what_it_scored(version: int) -> None:
    run = Run.open(RUNS / f"format-{version}")
    run.verify()
    scores = evaluate(run, make_shapes()).scores
    results = run.read_json("results.json")
    assert scores.test_accuracy == pytest.approx(results["test_accuracy"], abs=0.002)
    assert scores.test_cross_entropy == pytest.approx(results["test_cross_entropy"], rel=0.02)  # other dtypes differ


# --- resize modes had other names ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "name"), OLD_RESIZES.items())
def test_an_old_run_has_todays_name_of_its_resize_mode(tmp_path: Path, old: str, name: str) -> None:
    run = Run(shutil.copytree(RUNS / "format-1", tmp_path / "run"))
    env = run.env | {"folder": {"path": "/pets", "sha256": "0", "size": 32, "resize": old}}
    run.write_json("env.json", env)
    assert run.env["folder"]["resize"] == name
    model = run.read_json("model.json")
    assert model["resize"] == "squash"
    run.rewrite_in_manifest({"model.json": json.dumps(model | {"resize": old})})
    assert run.description.resize == name


def test_an_old_model_file_opens_and_has_todays_name_of_its_resize_mode() -> None:
    """An unknown mode would be refused as damaged metadata. Such files say nothing of bit depth and distance."""
    network = onnx.load(BUNDLED)
    about = json.loads(next(entry.value for entry in network.metadata_props if entry.key == ABOUT))
    old = {name: value for name, value in about.items() if name not in ("bit_depth", "calibration", "distance")}
    onnx.helper.set_model_props(network, {ABOUT: json.dumps(old | {"resize": "squash"}), DIGEST: "0" * 64})
    del network.graph.output[1]
    opened = open_bytes(seal(network.SerializeToString()), "old")
    assert (opened.about.resize, opened.about.bit_depth, opened.about.distance) == ("stretch", 16, None)
    assert opened.infer(np.zeros((1, 32, 32, 3), np.uint8)).distance is None


@pytest.mark.parametrize(("old", "name"), OLD_RESIZES.items())
@pytest.mark.parametrize("command", ["train", "bench", "tune", "profile"])
def test_the_old_name_of_a_resize_mode_is_taken_on_the_command_line(
    command: str, old: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    words = ["fast89", "--trials", "2"] if command == "tune" else []
    assert parsed.make_context(command, [*words, "--resize", old]).params["resize"] == name
    monkeypatch.setenv("TENFOLD_RESIZE", old)
    assert parsed.make_context(command, [*words]).params["resize"] == name
    assert parsed.make_context(command, [*words, "--resize", name]).params["resize"] == name


def test_an_old_run_with_a_field_set_that_its_network_never_used_predicts_as_without_it(tmp_path: Path) -> None:
    """The recipe was accepted then, and without effect; such a run was not opened any more."""
    plain, run = (tenfold.Run.open(shutil.copytree(RUNS / "format-1", tmp_path / name)) for name in ("plain", "old"))
    files = {name: run.read_json(name) for name in ("recipe.json", "model.json")}
    for values in files.values():
        assert values["network"].get("name", "whitened") == "whitened"
        values["network"]["dropout"] = 0.3
    run.rewrite_in_manifest({name: json.dumps(values) for name, values in files.items()})
    run.verify()
    images = make_shapes(train=10, test=20).test.images
    assert run.recipe == plain.recipe and run.predict(images) == plain.predict(images)
    assert run.evaluate(make_shapes()).scores.test_accuracy == plain.metrics.test_accuracy
