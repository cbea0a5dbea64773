"""Images of fewer or more pixels than recipes are made for: fitted, or refused before anything is decoded."""

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tenfold.data.dataset import Dataset, Split
from tenfold.data.shapes import make_shapes
from tenfold.errors import UsageError
from tenfold.training.networks import WhitenedSpec
from tenfold.training.recipe import Recipe
from tenfold.training.recipes import FAST89, FAST94, FAST96, RECIPES, REFERENCE
from tenfold.training.trainer import Trainer
from tests.support.process import Invoke

SIZES = (8, 9, 11, 15, 16, 17, 23, 24, 31, 32, 33, 48, 63, 64)


def narrow(recipe: Recipe) -> Recipe:
    """The same layers with next to no channels, for one short epoch."""
    if recipe.network.name == "whitened":
        recipe = replace(recipe, network=replace(recipe.network, widths=(2, 2, 2)))
    recipe = replace(recipe, proxy_widths=(2, 2, 2) if recipe.proxy_widths else (), batch_size=4)
    return replace(recipe.with_epochs(1), whiten_bias_epochs=0.5)


def noise(count: int, size: int, classes: int) -> Dataset:
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)
    train = Split(images, np.arange(count, dtype=np.uint8) % classes)
    return Dataset("noise", tuple(map(str, range(classes))), train, train[:0])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("recipe", [FAST89, FAST94, FAST96], ids=lambda recipe: recipe.name)
def test_every_fast_recipe_trains_at_every_size(recipe: Recipe, size: int) -> None:
    """Before, all of them failed below 16 pixels: "low_res_size: 16 is more than the images' 8 pixels"."""
    trainer = Trainer(narrow(recipe).for_size(size), noise(20, size, classes=3)).fit()
    assert trainer.done and np.isfinite(trainer.log.numpy()).all()


@pytest.mark.parametrize("size", [32, 33, 64])
def test_the_reference_trains_from_32_pixels_on(size: int) -> None:
    recipe = replace(narrow(REFERENCE), val_size=0)
    assert Trainer(recipe.for_size(size), noise(4, size, classes=2)).fit().done


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_fitted_recipe_stays_and_a_usual_size_changes_nothing(recipe: Recipe) -> None:
    for size in range(recipe.network.smallest, 65):
        fitted = recipe.for_size(size)
        assert fitted.for_size(size) == fitted
        assert size < recipe.network.usual_size or fitted == recipe


def test_what_is_fitted_by_hand() -> None:
    assert FAST96.changes(FAST96.for_size(8)) == (
        "translate 1 instead of 4, cutout 3 instead of 12, low_res_fraction 0.0 instead of 0.15, "
        "low_res_size 8 instead of 16"
    )
    assert FAST96.changes(FAST96.for_size(16)) == "translate 2 instead of 4, cutout 6 instead of 12"
    assert FAST89.for_size(16) == FAST89
    assert FAST89.changes(FAST89.for_size(15)) == "low_res_fraction 0.0 instead of 0.435"


@pytest.mark.parametrize(
    ("network", "smallest"),
    [
        (FAST89.network, 8),
        (REFERENCE.network, 32),
        (WhitenedSpec(widths=(4,) * 5), 32),
        (WhitenedSpec(widths=(4,), whitening=5), 5),
        (WhitenedSpec(widths=(4, 4), whitening=2, whitening_pairs=4), 5),  # patches of an even side lose a pixel
        (WhitenedSpec(widths=(4, 4), stride=3), 12),
    ],
)
def test_the_smallest_images_of_a_network(network: WhitenedSpec, smallest: int) -> None:
    assert network.smallest == smallest
    recipe = replace(FAST89, network=network, low_res_fraction=0.0, freeze_fraction=0.0)
    recipe.for_size(smallest)
    said = f"its network needs images of {smallest} pixels a side or more, not {smallest - 1}: choose another recipe"
    with pytest.raises(UsageError, match=said):
        recipe.for_size(smallest - 1)


@pytest.mark.parametrize(
    "words",
    [("train",), ("bench", "--runs", "1"), ("profile",), ("tune", "reference", "--trials", "1")],
    ids=" ".join,
)
def test_what_does_not_fit_is_said_before_anything_is_decoded(
    invoke: Invoke, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """The folder is not even there."""
    recipe = () if words[0] == "tune" else ("--recipe", "reference")
    space = ("--space", "space.json") if words[0] == "tune" else ()
    (tmp_path / "space.json").write_text('{"l2": {"low": 1e-5, "high": 1e-3}}')
    said = invoke(*words, *recipe, *space, "--data", "./absent", "--size", "24", cwd=tmp_path)
    assert said.returncode == 2 and said.stderr == (
        "tenfold: recipe reference: its network needs images of 32 pixels a side or more, not 24: "
        "choose another recipe or --size\n"
    )


@pytest.mark.slow
def test_eight_pixels_a_side_from_training_to_prediction(invoke: Invoke, tmp_path: Path) -> None:
    """With the default recipe, as the help says."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 20, 20, 3), np.uint8)
    for number, pixels in enumerate(noise):
        path = tmp_path / "data" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    env = os.environ | {"TENFOLD_HOME": str(tmp_path / "home")}
    words = ("train", "--data", tmp_path / "data", "--size", "8", "--epochs", "3", "--out", tmp_path / "run")
    said = invoke(*words, env=env)
    assert said.returncode == 0, said.stderr
    assert "recipe fitted to images of 8 pixels: low_res_fraction 0.0 instead of 0.435" in said.stderr
    said = invoke("predict", tmp_path / "data", "--model", tmp_path / "run", "--json", env=env)
    assert said.returncode == 0 and len(said.stdout.splitlines()) == 24


@pytest.mark.slow
def test_128_pixels_a_side_from_training_to_the_exported_file(invoke: Invoke, tmp_path: Path) -> None:
    """From scratch, by `fast89` with narrow layers: announced, trained, scored, explained, exported and answered."""
    for number, pixels in enumerate(make_shapes(train=24, test=0, size=140).train.images):
        path = tmp_path / "data" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(pixels)).save(path)
    (tmp_path / "narrow.json").write_text(narrow(FAST89).to_json())
    env, run = os.environ | {"TENFOLD_HOME": str(tmp_path / "home")}, tmp_path / "run"
    commands: dict[str, tuple[str | Path, ...]] = {
        "train": ("--recipe", tmp_path / "narrow.json", "--data", tmp_path / "data", "--size", "128", "--out", run),
        "evaluate": (run,),
        "explain": (run, tmp_path / "data" / "a" / "0.png", "--out", tmp_path / "maps"),
        "export": (run, "--out", tmp_path / "model.onnx"),
        "predict": (tmp_path / "data", "--model", tmp_path / "model.onnx"),
    }
    said = {}
    for command, words in commands.items():
        said[command] = invoke(command, *words, env=env)
        assert said[command].returncode == 0, said[command].stderr
    assert re.search(r"^training: [\d,]+ passes of an image, about \d+ s and [\d.]+ GB", said["train"].stderr, re.M)
    assert (
        list((tmp_path / "maps").glob("*.png")) and "top-1 agreement" in said["export"].stdout + said["export"].stderr
    )
    assert len(said["predict"].stdout.splitlines()) >= 24
