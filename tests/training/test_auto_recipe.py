"""Recipe `auto`: which recipe a folder, a named data set and arrays get, and what is said about it."""

from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from PIL import Image

import tenfold
from tenfold.data import folder
from tenfold.data.dataset import Dataset, Split
from tenfold.errors import DataError
from tenfold.training import auto_recipe
from tenfold.training.auto_recipe import AUTO, Choice, resolve_auto
from tenfold.training.recipes import FAST94
from tests.support.process import Invoke


def write_folder(root: Path, side: int = 40, images: int = 6) -> Path:
    for number in range(images):
        path = root / ("train" if number % 3 else "test") / ("cats" if number % 2 else "dogs") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2 * side, side), (number, 0, 0)).save(path)
    return root


def arrays(side: int) -> Dataset:
    part = Split(np.zeros((2, side, side, 3), np.uint8), np.array([0, 1], np.uint8))
    return Dataset("mine", ("cats", "dogs"), part, part)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_recipe, "_is_installed", lambda: True)


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_recipe, "_is_installed", lambda: False)


def test_another_recipe_stays(tmp_path: Path) -> None:
    assert resolve_auto("fast94", tmp_path) == Choice("fast94")
    assert resolve_auto(FAST94, tmp_path / "absent") == Choice(FAST94)


@pytest.mark.usefixtures("installed")
def test_a_named_data_set_is_trained_from_scratch() -> None:
    assert resolve_auto(AUTO, "cifar10") == resolve_auto(AUTO, "shapes") == Choice("fast89")


@pytest.mark.usefixtures("installed")
def test_few_images_get_pretrained_weights(tmp_path: Path) -> None:
    """Test images do not count."""
    choice = resolve_auto(AUTO, write_folder(tmp_path))
    assert choice == Choice(
        "pretrained", "recipe pretrained, since 4 images are few (--recipe fast89 trains from scratch)"
    )


@pytest.mark.usefixtures("installed")
def test_many_images_get_them_where_they_are_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_recipe, "FEW", 3)
    large, small = write_folder(tmp_path / "large", side=65), write_folder(tmp_path / "small", side=64)
    assert resolve_auto(AUTO, large).recipe == "pretrained"
    assert "since images of 65 pixels are large" in str(resolve_auto(AUTO, str(large)).reason)
    assert resolve_auto(AUTO, small) == Choice(
        "fast89", "recipe fast89: 4 images of 64 pixels are enough to train from scratch"
    )


@pytest.mark.usefixtures("missing")
def test_without_the_extra_what_it_would_bring_is_said(tmp_path: Path) -> None:
    choice = resolve_auto(AUTO, write_folder(tmp_path))
    assert choice.recipe == "fast89" and "4 images are few: with the extra 'pretrained'" in str(choice.reason)


@pytest.mark.usefixtures("installed")
def test_images_that_are_to_be_small_are_trained_from_scratch(tmp_path: Path) -> None:
    choice = resolve_auto(AUTO, write_folder(tmp_path), size=63)
    assert choice.recipe == "fast89" and "images of 63 pixels a side are too small" in str(choice.reason)
    assert resolve_auto(AUTO, tmp_path, size=64).recipe == "pretrained"


@pytest.mark.usefixtures("installed")
def test_arrays_get_them_where_they_are_large() -> None:
    assert resolve_auto(AUTO, arrays(64)) == Choice("fast89") and resolve_auto(AUTO, arrays(65)) == Choice("pretrained")


@pytest.mark.usefixtures("missing")
def test_arrays_are_trained_from_scratch_without_the_extra() -> None:
    assert resolve_auto(AUTO, arrays(65)) == Choice("fast89")


@pytest.mark.usefixtures("installed")
def test_files_that_are_no_images_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_recipe, "FEW", 3)
    write_folder(tmp_path, side=100)
    (tmp_path / "train" / "dogs" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    (tmp_path / "train" / "dogs" / "text.jpg").write_text("no image")
    assert "images of 100 pixels are large" in str(resolve_auto(AUTO, tmp_path).reason)


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder that can be read"):
        resolve_auto(AUTO, tmp_path / "absent")


@pytest.mark.usefixtures("missing")
def test_the_command_says_what_it_chose(invoke: Invoke, tmp_path: Path) -> None:
    ended = invoke(
        "train", "--data", write_folder(tmp_path / "data", images=12), "--out", tmp_path / "run", "--no-report"
    )
    assert ended.returncode == 0, ended.stderr
    assert "recipe fast89, from scratch; 8 images are few" in ended.stderr


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--recipe", "fast94"], "leave --recipe out, or train each by itself"),
        (["--resume"], "leave --resume out"),
        (["--epochs", "2"], "leave --epochs out"),
        (["--fine-tune", "off"], "leave --fine-tune out"),
    ],
)
def test_compare_takes_no_options_of_one_recipe(invoke: Invoke, words: list[str], error: str) -> None:
    ended = invoke("train", "--data", "shapes", "--compare", *words)
    assert ended.returncode == 2 and error in ended.stderr and len(ended.stderr.splitlines()) == 1


@pytest.mark.usefixtures("missing")
def test_a_folder_is_listed_once(tmp_path: Path, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was listed for the choice, and again for its images; half a second for 20,000 of them."""
    listed: list[Path] = []
    right = folder.list_images

    def count(root: Path, *more: Any) -> Any:
        listed.append(root)
        return right(root, *more)

    def end(*_: object, **__: object) -> NoReturn:
        raise MemoryError

    monkeypatch.setattr(folder, "list_images", count)
    monkeypatch.setattr("tenfold.training.train.train", end)
    data = write_folder(tmp_path / "data", images=12)
    for recipe in ("auto", tiny_recipe):
        listed.clear()
        with pytest.raises(MemoryError):
            tenfold.train(recipe, data, tmp_path / "run", progress=False)
        assert listed == [data]
