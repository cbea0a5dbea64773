"""A finished run, its folder of images, which may change or go, and a run on data made in Python."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tenfold.data.dataset import Dataset
from tenfold.data.shapes import make_shapes
from tenfold.evaluation.evaluate import evaluate, write_scores
from tenfold.training import train as training
from tenfold.training.recipe import Recipe
from tenfold.training.run import Run
from tests.support.process import Invoke
from tests.support.run_alone import make_mine, write_images


@pytest.fixture(scope="module", autouse=True)
def always_own_home(own_home: None) -> None:
    """All tests here have a cache of their own."""


@pytest.fixture(scope="session")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty images of each of three classes."""
    return write_images(tmp_path_factory.mktemp("data") / "flowers", make_shapes(3, train=1, test=200))


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def mine() -> Dataset:
    return make_mine()


@pytest.fixture(scope="session")
def in_memory(mine: Dataset, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained and scored from Python, as the README shows it."""
    recipe = replace(Recipe.from_json(tiny_recipe.read_bytes()), val_size=20).with_epochs(6.0)
    trained = training.train(recipe, mine, tmp_path_factory.mktemp("mine") / "run", device="cpu")
    write_scores(trained.run, evaluate(trained.run, mine, trained.device_config), {})
    trained.run.unlock()
    return trained.run.path


@pytest.fixture
def mine_run(in_memory: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(in_memory, tmp_path / "mine"))
