"""What the tests of serving share: a small trained run, and its exported files.

PyTorch is imported by the fixtures that need it: tests of the rest run where it is not installed.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.few_shapes import few_shapes
from tests.support.made_once import made_once

if TYPE_CHECKING:
    from tenfold.training.run import Run

DISTANCE_THRESHOLD = 3.0


def make_run(folder: Path, recipe_file: Path) -> None:
    """Train, score and export into a folder: with temperature and thresholds."""
    from tenfold.evaluation.distance import add_rejection
    from tenfold.evaluation.evaluate import evaluate, write_scores
    from tenfold.serving.export import export
    from tenfold.training import train as training
    from tenfold.training.recipe import Recipe

    recipe = replace(Recipe.from_json(recipe_file.read_bytes()), tta="one").with_epochs(4.0)
    trained = training.train(recipe, few_shapes(), folder / "run", seed=0, device="cpu")
    evaluation = evaluate(trained.run, trained.dataset, trained.device_config)
    calibration = {"temperature": 0.8, "threshold": 0.6, "target_error": 0.01}
    write_scores(trained.run, evaluation, {"calibration": calibration})
    add_rejection(trained.run, trained.dataset, "cpu")
    results = trained.run.require_scores()
    results["rejection"] |= {"threshold": DISTANCE_THRESHOLD, "images": 100, "rejected": 4, "interval": [0.01, 0.1]}
    trained.run.rewrite_in_manifest({"results.json": json.dumps(results)})
    trained.run.unlock()
    export(trained.run)
    export(trained.run, folder / "small.onnx", "on")


@pytest.fixture(scope="session")
def run(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> "Run":
    """A run of 160 steps on shapes, with temperature and threshold; its exact and its 8-bit file beside it."""
    from tenfold.training.run import Run

    return Run.open(made_once(tmp_path_factory, "served", lambda folder: make_run(folder, tiny_recipe)) / "run")


@pytest.fixture(scope="session")
def model(run: "Run") -> Path:
    """The exact file."""
    return run.path / "model.onnx"


@pytest.fixture(scope="session")
def small(run: "Run") -> Path:
    """The 8-bit file."""
    return run.path.parent / "small.onnx"
