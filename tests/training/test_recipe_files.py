"""Recipe files: a base and the fields that differ, typos, and what is refused in one line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tenfold.errors import UsageError
from tenfold.training.networks import WhitenedSpec
from tenfold.training.recipe import Recipe
from tenfold.training.recipe_files import find_recipe
from tenfold.training.recipes import FAST89, REFERENCE

STAGE = {"epochs": 1.0, "learning_rate": 0.1, "final_learning_rate": 0.0}


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def test_a_base_and_one_field_differ_in_that_field_and_the_name(tmp_path: Path) -> None:
    path = write(tmp_path / "holes.json", {"base": "fast89", "cutout": 12})
    assert find_recipe(str(path)) == replace(FAST89, name="holes", cutout=12)


def test_a_network_is_merged_field_by_field(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {"base": "fast89", "name": "wide", "network": {"widths": [64, 64]}})
    network = replace(FAST89.network, widths=(64, 64))
    assert network.first_activation == "relu" != WhitenedSpec().first_activation  # inherited, not the default
    assert find_recipe(str(path)) == replace(FAST89, name="wide", network=network)


def test_another_network_inherits_no_field_of_the_bases(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {"base": "reference", "l2": 0, "network": {"name": "whitened"}})
    assert find_recipe(str(path)).network == WhitenedSpec()


def test_stages_replace_the_bases(tmp_path: Path) -> None:
    recipe = find_recipe(str(write(tmp_path / "a.json", {"base": "reference", "stages": [STAGE]})))
    assert (recipe.epochs, recipe.batch_size) == (1.0, REFERENCE.batch_size)


def test_a_path_is_relative_to_the_file_and_bases_may_have_bases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "common" / "root.json", {"base": "fast89", "cutout": 4})
    write(tmp_path / "common" / "middle.json", {"base": "root.json", "translate": 3})
    top = write(tmp_path / "mine" / "top.json", {"base": "../common/middle.json", "degrees": 5.0})
    monkeypatch.chdir("/")
    assert find_recipe(str(top)) == replace(FAST89, name="top", cutout=4, translate=3, degrees=5.0)


def test_old_names_of_fields_count_on_top_of_a_base(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {"base": "fast89", "shift": 3})
    assert find_recipe(str(path)).translate == 3


def test_the_json_of_a_recipe_with_a_base_is_complete(tmp_path: Path) -> None:
    recipe = find_recipe(str(write(tmp_path / "a.json", {"base": "fast89", "cutout": 12})))
    value = json.loads(recipe.to_json())
    assert "base" not in value and value.keys() == json.loads(FAST89.to_json()).keys()
    assert Recipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"base": 3}, "base: it must be a recipe's name or the path of a .json file"),
        ({"base": "fats89"}, "base: unknown recipe 'fats89': choose fast89.*; did you mean fast89\\?"),
        ({"base": "absent.json"}, "cannot read recipe .*absent.json: No such file or directory"),
        ({"base": "a.json"}, "base: recipes are based on each other in a cycle: a.json → a.json"),
        ({"base": "fast89", "cutot": 3}, "cutot: a recipe has no such field; did you mean cutout\\?"),
        ({"bsae": "fast89"}, "bsae: a recipe has no such field; did you mean base\\?"),
        ({"name": "x"}, 'network: it is missing: a recipe has to have it, or a base that has it \\("base": "fast89"'),
        ({"base": "fast89", "epochs": 3}, "epochs: a recipe has no such field: leave it out$"),
        ({"base": "fast89", "stages": [STAGE | {"cutot": 1}]}, "stages.0.cutot: a stage has no such field: leave"),
        (
            {"base": "fast89", "stages": [{"epochs": 1, "learning_rat": 0.1, "final_learning_rate": 0}]},
            "stages.0.learning_rat: a stage has no such field; did you mean learning_rate\\?",
        ),
        ({"base": "fast89", "stages": [{"epochs": 1}]}, "stages.0.learning_rate: it is missing: a stage has to have"),
        ({"base": "fast89", "network": {"widht": [3]}}, "network.widht: .*; did you mean widths\\?"),
        ({"base": "fast89", "network": 3}, "network: "),
        ({"base": "fast89", "optimizer": "moun"}, "optimizer: .*; did you mean muon\\?"),
        ({"base": "fast89", "translate": 2, "shift": 2}, "shift: "),
    ],
)
def test_a_wrong_base_or_field_is_one_line(tmp_path: Path, value: Any, message: str) -> None:
    path = write(tmp_path / "a.json", value)
    with pytest.raises(UsageError, match=message) as caught:
        find_recipe(str(path))
    assert "\n" not in str(caught.value) and "json" in str(caught.value)


def test_a_cycle_of_two_files_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.json", {"base": "b.json"})
    write(tmp_path / "b.json", {"base": "a.json"})
    with pytest.raises(UsageError, match=r"in a cycle: a\.json → b\.json → a\.json"):
        find_recipe(str(tmp_path / "a.json"))


def test_an_error_in_a_base_names_the_bases_file(tmp_path: Path) -> None:
    write(tmp_path / "root.json", {"base": "fast89", "cutout": -1})
    top = write(tmp_path / "top.json", {"base": "root.json"})
    with pytest.raises(UsageError, match=r"root\.json: cutout: "):
        find_recipe(str(top))


def test_a_name_far_from_every_recipe_gets_no_suggestion() -> None:
    with pytest.raises(UsageError) as caught:
        find_recipe("zzz")
    assert str(caught.value).endswith("or a .json file")


def test_a_misspelt_name_gets_the_closest_one() -> None:
    with pytest.raises(UsageError, match=r"did you mean reference\?$"):
        find_recipe("referense")
