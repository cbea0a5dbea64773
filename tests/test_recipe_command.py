"""`tenfold recipe list` and `recipe show`: every field with its value and meaning, and the same as JSON."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from tenfold.cli.recipe import recipe_show
from tenfold.training.augment import Affine, Cutout, Flip, Translate
from tenfold.training.networks import ReferenceSpec, WhitenedSpec
from tenfold.training.recipe import Recipe, Stage
from tenfold.training.recipe_fields import field_docstrings, field_rows
from tenfold.training.recipes import FAST89, RECIPES, REFERENCE

Invoke = Callable[..., tuple[int, str, str]]


def test_the_list_names_the_built_in_recipes(invoke: Invoke) -> None:
    code, out, err = invoke("recipe", "list")
    assert (code, err) == (0, "") and all(name in out for name in RECIPES)
    rows = json.loads(invoke("recipe", "list", "--json")[1])["recipes"]
    assert rows[-1] == {
        "recipe": "reference",
        "network": "reference",
        "epochs": 35.0,
        "batch_size": 64,
        "optimizer": "adam",
    }


def test_the_json_is_the_whole_recipe_on_one_line(invoke: Invoke) -> None:
    code, out, _ = invoke("recipe", "show", "fast89", "--json")
    assert code == 0 and out.count("\n") == 1 and Recipe.from_json(out) == FAST89


def test_a_files_base_is_filled_in(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"base": "fast89", "cutout": 12}')
    shown = json.loads(invoke("recipe", "show", path, "--json")[1])
    assert (shown["name"], shown["cutout"], shown["batch_size"]) == ("mine", 12, 500)


def test_the_table_has_a_row_with_meaning_for_every_field(invoke: Invoke) -> None:
    rows = {row.name: row for row in field_rows(FAST89)}
    flat = json.loads(FAST89.to_json())
    names = {f"network.{name}" for name in flat.pop("network")} | flat.keys() - {"name"}
    assert rows.keys() == names and all(row.meaning for row in rows.values())
    assert rows["network.widths"].value == "32, 128, 256"
    assert rows["cutout"] == ("cutout", "0", "Side of a square that is greyed out, in pixels")
    out = invoke("recipe", "show", "fast89")[1]
    assert [line.split()[0] for line in out.splitlines()[2:]] == list(rows)


def test_a_narrow_terminal_gets_two_lines_a_field(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 80 columns the table gave each meaning a column of 24, on up to seven lines."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    recipe_show("fast89")
    lines = capsys.readouterr().out.splitlines()
    assert lines[lines.index("cutout: 0") + 1] == "    Side of a square that is greyed out, in pixels"
    assert len(lines) == 2 * len(field_rows(FAST89))
    monkeypatch.setenv("COLUMNS", "200")
    recipe_show("fast89")
    assert "meaning" in capsys.readouterr().out.splitlines()[0]


def test_stages_are_listed_one_after_the_other() -> None:
    value = next(row.value for row in field_rows(REFERENCE) if row.name == "stages")
    assert value.startswith("epochs 20, learning_rate 0.0003, final_learning_rate 0.0003; epochs 10, ")


@pytest.mark.parametrize("kind", [Recipe, Stage, WhitenedSpec, ReferenceSpec, Flip, Translate, Affine, Cutout])
def test_every_field_that_the_page_lists_has_a_meaning(kind: Any) -> None:
    """The network's and the stages' had none."""
    meanings = field_docstrings(kind)
    assert [field.name for field in fields(kind) if not meanings.get(field.name)] == []


def test_docstrings_of_fields_are_one_line_and_inherited() -> None:
    assert "\n" not in field_docstrings(Recipe)["proxy_widths"]


LACKING = """
import importlib.util as util, sys
lacking = ('torch', 'pandas', 'matplotlib', 'sklearn', 'scipy', 'safetensors', 'onnx', 'psutil')
sys.modules.update(dict.fromkeys(lacking))
found = util.find_spec
util.find_spec = lambda name, *more: None if name in lacking else found(name, *more)
from tenfold.cli import main
main()
"""


def without_torch(*words: object) -> "subprocess.CompletedProcess[str]":
    """The command in a process where importing torch is an error, as where it is not installed."""
    return subprocess.run([sys.executable, "-c", LACKING, *map(str, words)], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_listed_and_shown_without_torch(name: str) -> None:
    """They waited more than a second for its import."""
    shown, listed = without_torch("recipe", "show", name, "--json"), without_torch("recipe", "list", "--json")
    assert (shown.returncode, shown.stderr, listed.returncode, listed.stderr) == (0, "", 0, "")
    assert Recipe.from_json(shown.stdout) == RECIPES[name] and name in listed.stdout


def test_a_recipe_file_is_shown_without_torch(tmp_path: Path) -> None:
    """But one that names an augmentation needs it: that is one line, not a traceback."""
    path = tmp_path / "mine.json"
    path.write_text('{"base": "fast96", "network": {"widths": [8, 16]}, "cutout": 4}')
    shown = without_torch("recipe", "show", path)
    assert (shown.returncode, shown.stderr) == (0, "") and "8, 16" in shown.stdout
    path.write_text('{"base": "fast96", "augmentations": [{"name": "cutout"}]}')
    refused = without_torch("recipe", "show", path)
    assert refused.returncode == 2 and refused.stderr.startswith("tenfold: this needs torch of the extra 'train'")
    assert refused.stderr.count("\n") == 1
