"""What the tests of this room share: a small trained run, and its exported files."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tenfold.data.shapes import make_shapes
from tenfold.evaluation.evaluate import evaluate, write_scores
from tenfold.serving.export import export
from tenfold.training import train as training
from tenfold.training.recipe import Recipe
from tenfold.training.run import Run

DATASET = make_shapes(train=2000, test=500)


@contextmanager
def few_shapes() -> Iterator[None]:
    """The data of a run is loaded by its name; less of it will do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tenfold.training.provenance.load_named", {"shapes": DATASET}.__getitem__)
        yield


@pytest.fixture(scope="module", autouse=True)
def small_shapes() -> Iterator[None]:
    """For the tests of this room only: a patch for the whole session would stay for those of the others."""
    with few_shapes():
        yield


@pytest.fixture(scope="session")
def run(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of 160 steps on shapes, with temperature and threshold; its exact and its 8-bit file beside it."""
    path = tmp_path_factory.mktemp("served") / "run"
    recipe = replace(Recipe.from_json(tiny_recipe.read_bytes()), tta="one").with_epochs(4.0)
    trained = training.train(recipe, DATASET, path, seed=0, device="cpu")
    evaluation = evaluate(trained.run, trained.dataset, trained.plan)
    calibration = {"temperature": 0.8, "threshold": 0.6, "promised_error": 0.01}
    write_scores(trained.run, evaluation, {"calibration": calibration})
    trained.run.unlock()
    with few_shapes():
        export(trained.run)
        export(trained.run, path.parent / "small.onnx", "on")
    return trained.run


@pytest.fixture(scope="session")
def model(run: Run) -> Path:
    """The exact file."""
    return run.path / "model.onnx"


@pytest.fixture(scope="session")
def small(run: Run) -> Path:
    """The 8-bit file."""
    return run.path.parent / "small.onnx"
