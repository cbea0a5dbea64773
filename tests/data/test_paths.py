"""How the user's way of writing a path is understood: `~`, a data set's name, byte order marks, lists."""

import codecs
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import tenfold
from tenfold.cli.app import PATHS_AS_TEXT, app
from tenfold.cli.data import data_app
from tenfold.cli.recipe import recipe_app
from tenfold.data.shapes import make_shapes
from tenfold.errors import UsageError
from tenfold.files import expand_home
from tenfold.training.recipe_files import find_recipe
from tests.support.few_shapes import TRAIN
from tests.support.images import save
from tests.support.process import Invoke

SHAPES = make_shapes(0, 60, 1).train.images
NOT_PATHS = {
    *(
        "seed",
        "device",
        "dtype",
        "resize",
        "skip_bad",
        "fine_tune",
        "balance",
        "label_columns",
        "to",
        "int8",
        "column",
        "cluster",
        "host",
        "token",
        "allow_host",
        "sort",
        "log",
    ),
}


def write_folder(root: Path, images: int = 12) -> Path:
    """Two classes of so many images."""
    for number, pixels in enumerate(SHAPES[: 2 * images]):
        path = root / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(save(pixels, "PNG"))
    return root


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> Path:
    """A home directory with a folder of images in it, and another folder to work in."""
    write_folder(tmp_path / "user" / "flowers")
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "user"


# --- ~ ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_tilde_is_the_home_directory_in_options_and_variables(invoke: Invoke, here: Path, tiny_recipe: Path) -> None:
    """Without it: "unknown recipe", "is not a folder", and folders that are named ~."""
    (here / "tiny.json").write_bytes(tiny_recipe.read_bytes())
    env = os.environ | {"TENFOLD_DATA": "~/flowers", "TENFOLD_RECIPE": "~/tiny.json"}
    said = invoke("train", "--out=~/runs/one", "--epochs", "2", "--no-report", "--json", env=env)
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["run"] == str(here / "runs" / "one")
    again = invoke("train", "--resume", "--data=~/flowers", "--out=~/runs/one")
    assert again.returncode == 4 and f"{here}/runs/one is finished" in again.stderr
    said = invoke("predict", "~/flowers/a/*.png", "--model=~/runs/one", "--out=~/answers.csv")
    assert said.returncode == 0 and len((here / "answers.csv").read_text().splitlines()) == 1 + 12
    assert list(Path.cwd().iterdir()) == []


def test_several_recipes_may_lie_in_the_home_directory(invoke: Invoke, here: Path) -> None:
    said = invoke("bench", "--recipe", "fast89", "--recipe", "~/a.json", "--data", "shapes")
    assert said.returncode == 2 and f"cannot read recipe {here}/a.json" in said.stderr


def test_every_option_is_known_to_be_a_path_or_not() -> None:
    """A new one of text needs a decision: `PATHS_AS_TEXT`, or the list here."""
    functions = [command.callback for each in (app, data_app, recipe_app) for command in each.registered_commands]
    texts = {name for function in functions for name, kind in get_type_hints(function).items() if "str" in str(kind)}
    assert len(functions) > 14 and texts - set(PATHS_AS_TEXT) - NOT_PATHS == set()


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("~", "/home/ann"),
        ("~/x/", "/home/ann/x/"),
        ("./~/x", "./~/x"),
        ("x~", "x~"),
        ("~no-such-user/x", "~no-such-user/x"),
        ("", ""),
    ],
)
def test_a_tilde_means_what_it_means_in_a_shell(monkeypatch: pytest.MonkeyPatch, text: str, path: str) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert expand_home(text) == path


def test_without_a_home_directory_a_tilde_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a folder would be made that is named ~."""
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(UsageError, match="you have no home directory"):
        expand_home("~/x")


# --- names -----------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_named_as_a_data_set(invoke: Invoke, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`./shapes` and `shapes/` are the folder; of the name alone it is said what it means."""
    said: list[str] = []
    monkeypatch.setattr("tenfold.data.log_info", said.append)
    write_folder(Path("shapes"), images=20)
    assert len(tenfold.load("shapes").train) == TRAIN
    assert said == ["shapes is the built-in data set; for the folder shapes that is here, write ./shapes"]
    for path in ("./shapes", "shapes/"):
        assert tenfold.load(path).classes == ("a", "b")
    assert len(said) == 1
    invoke("data", "delete", "shapes")
    assert len(said) == 2 and "write ./shapes" in said[1]


def test_no_name_at_all_is_not_the_folder_that_one_is_in(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here / "flowers")
    with pytest.raises(UsageError, match="unknown data set ''"):
        tenfold.load("")


# --- byte order marks ------------------------------------------------------------------------------------------------

MARKED = {
    "UTF-8 with a mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "PowerShell": lambda text: codecs.BOM_UTF16_LE + text.replace("\n", "\r\n").encode("utf-16-le"),
    "UTF-16, big end first": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "UTF-32": lambda text: codecs.BOM_UTF32_LE + text.encode("utf-32-le"),
}


@pytest.mark.parametrize("encode", MARKED.values(), ids=MARKED)
def test_a_recipe_of_any_editor_is_read(tmp_path: Path, tiny_recipe: Path, encode: Any) -> None:
    (tmp_path / "mine.json").write_bytes(encode(tiny_recipe.read_text()))
    assert find_recipe(str(tmp_path / "mine.json")) == find_recipe(str(tiny_recipe))


@pytest.mark.parametrize("encode", MARKED.values(), ids=MARKED)
def test_a_space_of_any_editor_is_read(tmp_path: Path, encode: Any) -> None:
    from tenfold.scaling.space import Range, read_space

    (tmp_path / "space.json").write_bytes(encode('{"momentum": {"low": 0.25, "high": 0.75}}'))
    assert read_space(tmp_path / "space.json", find_recipe("fast89")) == {"momentum": Range(0.25, 0.75)}


def test_a_recipe_that_is_not_what_its_mark_says_is_one_line(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "odd.json").write_bytes(codecs.BOM_UTF16_LE + b"{}\n")
    said = invoke("train", "--recipe", "odd.json", "--data", "shapes", cwd=tmp_path)
    assert said.returncode == 2
    assert said.stderr == "tenfold: odd.json: begins as utf-16-le text, but is not: save it as UTF-8\n"


# --- lists -----------------------------------------------------------------------------------------------------------


def test_find_print0_is_answered_file_by_file(here: Path) -> None:
    """Names with a blank, a line break and letters of other scripts; before, none was answered."""
    for name in ("with blank.png", "two\nlines.png", "日本.png"):
        (here / "flowers" / "a" / name).write_bytes(save(SHAPES[0], "PNG"))
    line = f'find "$HOME/flowers/a" -name "*.png" -print0 | "{sys.executable}" -m tenfold predict - --json'
    said = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
    answers = [json.loads(answer) for answer in said.stdout.splitlines()]
    assert {Path(answer["path"]).name for answer in answers} >= {"with blank.png", "two\nlines.png", "日本.png"}
    assert len(answers) == 12 + 3 and all("label" in answer for answer in answers)


def test_a_list_of_powershell_is_answered(here: Path) -> None:
    names = sorted(map(str, (here / "flowers" / "a").iterdir()))
    words = [sys.executable, "-m", "tenfold", "predict", "-", "--json"]
    content = MARKED["PowerShell"]("\n".join(names))
    said = subprocess.run(words, input=content, capture_output=True, check=True)
    assert [json.loads(answer)["path"] for answer in said.stdout.splitlines()] == names
