"""Recipes: to JSON and back, and every way of getting one wrong."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tenfold.errors import UsageError
from tenfold.training.networks import WhitenedSpec
from tenfold.training.recipe import Recipe, Stage, with_defaults
from tenfold.training.recipe_files import find_recipe
from tenfold.training.recipes import FAST89, RECIPES, REFERENCE
from tenfold.training.schedule import make_schedule

PLAIN = Recipe("plain", WhitenedSpec(), (Stage(1, 0.1, 0.0),))


def changed(**fields: Any) -> str:
    return json.dumps(json.loads(PLAIN.to_json()) | fields)


EVEN_PATCHES = changed(proxy_prune_fraction=0.5, proxy_widths=[8] * 4, network={"whitening": 2, "whitening_pairs": 6})


@pytest.mark.parametrize("recipe", [*RECIPES.values(), PLAIN], ids=lambda recipe: recipe.name)
def test_a_recipe_comes_back_from_json_as_it_went(recipe: Recipe) -> None:
    back = Recipe.from_json(recipe.to_json())
    assert back == recipe
    assert isinstance(back.stages, tuple) and isinstance(getattr(back.network, "widths", ()), tuple)
    assert set(json.loads(recipe.to_json())) == set(Recipe.__dataclass_fields__)  # every field is written out


def test_fields_left_out_take_their_defaults() -> None:
    text = '{"name": "plain", "network": {}, "stages": [{"epochs": 1, "learning_rate": 0.1, "final_learning_rate": 0}]}'
    assert Recipe.from_json(text) == PLAIN


def test_a_recipe_with_a_proxy_comes_back_as_it_went() -> None:
    recipe = Recipe.from_json(changed(proxy_prune_fraction=0.5, proxy_widths=[8] * 4))
    assert recipe.proxy_widths == (8, 8, 8, 8)
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_what_was_noted_before_a_field_was_is_completed() -> None:
    values = json.loads(FAST89.to_json())
    old = {name: value for name, value in values.items() if name != "proxy_widths"}
    assert with_defaults(old) == values == with_defaults(values)
    for other in (3, None, {**values, "from_a_later_version": 1}, {"name": "no recipe"}):
        assert with_defaults(other) == other


OLD_NAMES = {
    "easy_share": ("prune_fraction", 0.5), "small_share": ("low_res_fraction", 0.25),
    "small_size": ("low_res_size", 20),
    "frozen_share": ("freeze_fraction", 0.125), "views": ("tta", "mirror"), "unsure_share": ("tta_fraction", 0.75),
    "whitening_epochs": ("whiten_bias_epochs", 1.5), "bias_rate": ("bias_lr", 0.1), "head_rate": ("head_lr", 0.2),
    "decay": ("weight_decay", 0.3), "standardize": ("normalize", False), "shift": ("translate", 3),
    "shift_share": ("affine_translate", 0.4), "rotate": ("degrees", 5.0),
}  # fmt: skip


@pytest.mark.parametrize("old", OLD_NAMES)
def test_a_recipe_with_the_old_name_of_a_field_means_the_same(old: str) -> None:
    current, value = OLD_NAMES[old]
    values = json.loads(PLAIN.to_json())
    assert values.pop(current) != value
    assert Recipe.from_json(json.dumps(values | {old: value})) == replace(PLAIN, **{current: value})


def test_the_old_share_of_easy_images_was_the_proxys_where_there_was_one() -> None:
    values = {name: value for name, value in json.loads(PLAIN.to_json()).items() if "pr" not in name}
    values |= {"easy_share": 0.5, "judge_widths": [8, 8]}
    assert Recipe.from_json(json.dumps(values)) == replace(PLAIN, proxy_widths=(8, 8), proxy_prune_fraction=0.5)


def test_the_old_momentum_of_batch_norm_was_what_it_kept() -> None:
    recipe = Recipe.from_json(changed(network={"norm_momentum": 0.75}))
    assert recipe.network == WhitenedSpec(batch_norm_momentum=0.25)


def test_both_names_of_a_field_are_one_too_many() -> None:
    with pytest.raises(UsageError, match=r"mine\.json: shift: "):
        Recipe.from_json(changed(shift=2), source="mine.json")


def test_names_are_keys() -> None:
    assert {name: recipe.name for name, recipe in RECIPES.items()} == {name: name for name in RECIPES}
    assert find_recipe("fast89") is FAST89


def test_reference_is_the_reference_systems_recipe() -> None:
    stages = [(20, 3e-4, 3e-4), (10, 1e-4, 1e-4), (5, 5e-5, 5e-5)]
    assert [(s.epochs, s.learning_rate, s.final_learning_rate) for s in REFERENCE.stages] == stages
    values = {"batch_size": 64, "optimizer": "adam", "l2": 1e-4, "label_smoothing": 0, "normalize": False}
    values |= {"flip": "random", "translate": 0, "degrees": 15, "affine_translate": 0.1, "cutout": 0}
    values |= {"val_size": 10_000, "val_split": "random", "tta": "one", "epochs": 35}
    assert {name: getattr(REFERENCE, name) for name in values} == values
    network = REFERENCE.network
    assert (network.name, network.dropout, 1 - network.batch_norm_momentum) == ("reference", 0.3, 0.99)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (changed(batchsize=64), "batchsize"),
        (changed(batch_size="500"), "batch_size"),
        (changed(batch_size=True), "batch_size"),
        (changed(batch_size=0), "batch_size"),
        (changed(batch_size=64.5), "batch_size"),
        (changed(label_smoothing=-0.1), "label_smoothing"),
        (changed(weight_decay=float("inf")), "weight_decay"),
        (changed(l2=float("nan")), "l2"),
        (changed(flip="sideways"), "flip"),
        (changed(tta_fraction=1.5), "tta_fraction"),
        (changed(stages=[]), "stages"),
        (changed(stages=[{"epochs": 0, "learning_rate": 1, "final_learning_rate": 0}]), "stages.0.epochs"),
        (changed(stages=[{"epochs": 1e9, "learning_rate": 1, "final_learning_rate": 0}]), "stages.0.epochs"),
        (changed(stages=[{"epochs": 1, "learning_rate": 1}]), "stages.0.final_learning_rate"),
        (changed(network={"widths": []}), "network.widths"),
        (changed(network={"widths": [64, 0]}), "network.widths.1"),
        (changed(network={"name": "resnet"}), "network.name"),
        (changed(network=3), "network"),
        (changed(name="../x"), "name"),
        (changed(name="a/b"), "name"),
        (changed(name=""), "name"),
        (changed(l2=0.1), "l2"),
        (changed(low_res_fraction=0.5, low_res_size=7), "low_res_size"),
        (changed(low_res_fraction=0.5, network={"name": "reference"}), "low_res_fraction"),
        (changed(proxy_prune_fraction=0.5, proxy_widths=[8, 0]), "proxy_widths.1"),
        (changed(proxy_prune_fraction=0.5, proxy_widths=[8] * 11), "proxy_widths"),
        (changed(proxy_prune_fraction=0.5, proxy_widths=[8], network={"name": "reference"}), "proxy_widths"),
        (
            changed(proxy_prune_fraction=0.5, proxy_widths=[8] * 5),
            "low_res_size",
        ),  # 16 pixels are halved four times at most
        (
            changed(proxy_prune_fraction=0.5, proxy_widths=[8], low_res_size=2),
            "low_res_size",
        ),  # less than a patch of the first layer
        (changed(proxy_prune_fraction=0.5), "proxy_prune_fraction"),
        (changed(prune_fraction=0.5, proxy_prune_fraction=0.5, proxy_widths=[8]), "prune_fraction"),
        (EVEN_PATCHES, "low_res_size"),  # 15, 7, 3, 1, 0 pixels a side
        ("{}", "name"),
        ("[1, 2]", "file"),
        ("{not json", "file"),
        pytest.param("[" * 100_000, "file", id="deep"),
        ("", "file"),
    ],
)
def test_what_is_wrong_is_named(text: str, named: str) -> None:
    with pytest.raises(UsageError) as caught:
        Recipe.from_json(text, source="mine.json")
    assert str(caught.value).startswith(f"mine.json: {named}: ")
    assert "\n" not in str(caught.value)


def test_an_unknown_network_gets_a_suggestion() -> None:
    with pytest.raises(UsageError) as caught:
        Recipe.from_json(changed(network={"name": "whitend"}), source="mine.json")
    assert str(caught.value) == (
        "mine.json: network.name: unknown network 'whitend'; known are reference, whitened, "
        "efficientnet-lite0; did you mean whitened?"
    )


def test_a_file_is_found_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(PLAIN.to_json())
    assert find_recipe(str(path)) == PLAIN


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fast90", r"unknown recipe 'fast90': choose fast89.*reference.* or a \.json file"),
        ("absent.json", r"cannot read recipe absent\.json: No such file or directory"),
    ],
)
def test_a_name_that_is_none_is_said(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        find_recipe(name)


def test_with_epochs_keeps_each_stages_share() -> None:
    shrunk = REFERENCE.with_epochs(7)
    assert [stage.epochs for stage in shrunk.stages] == pytest.approx([4, 2, 1])
    assert [stage.learning_rate for stage in shrunk.stages] == [3e-4, 1e-4, 5e-5]
    assert shrunk.epochs == pytest.approx(7)
    assert Recipe.from_json(shrunk.to_json()) == shrunk


@pytest.mark.parametrize("epochs", [0, -1, float("inf"), float("nan"), 1e9])
def test_epochs_that_cannot_be_are_refused(epochs: float) -> None:
    with pytest.raises(UsageError, match="--epochs must be more than 0"):
        REFERENCE.with_epochs(epochs)


def test_with_val_size_takes_the_last_images() -> None:
    held = REFERENCE.with_val_size(5000)
    assert (held.val_size, held.val_split) == (5000, "last")
    with pytest.raises(UsageError, match="--val-size must be 0 or more, not -1"):
        REFERENCE.with_val_size(-1)


def test_fewer_images_take_as_many_steps_that_are_cheaper() -> None:
    """500 images are a hundredth: ten times the epochs, a tenth of the batch."""
    fitted = FAST89.for_images(500)
    assert (fitted.epochs, fitted.batch_size) == (pytest.approx(10 * FAST89.epochs), 50)
    assert fitted.whiten_bias_epochs == pytest.approx(10 * FAST89.whiten_bias_epochs)
    steps = [make_schedule(FAST89.for_images(images), images).total for images in (500, 1_000, 5_000, 20_000, 50_000)]
    assert all(abs(count - 100 * FAST89.epochs) <= 10 for count in steps)


def test_a_small_data_set_is_not_pruned_unless_classes_are_rare() -> None:
    assert [FAST89.for_images(images).prune_fraction for images in (500, 9_999, 10_000, 50_000)] == [0, 0, 0.6, 0.6]
    assert FAST89.for_images(500, rare_classes=True).prune_fraction == 0.6
    assert [FAST89.for_images(images).low_res_fraction for images in (500, 1_999, 2_000)] == [0, 0, 0.435]


def test_a_fitted_recipe_stays_as_it_is() -> None:
    """So that a run's recipe.json trains the same run again."""
    fitted = FAST89.for_images(500)
    assert fitted.for_images(500) == fitted
    assert Recipe.from_json(fitted.to_json()).for_images(500) == fitted


def test_no_batch_is_tiny_and_nothing_grows_with_many_images() -> None:
    assert FAST89.for_images(40).batch_size == 32
    assert make_schedule(FAST89.for_images(40), 40).total == round(FAST89.epochs * (50_000 / 40) ** 0.5)
    assert FAST89.for_images(50_000) == FAST89.for_images(1_000_000) == FAST89
    fitted = REFERENCE.for_images(500)
    assert (fitted.batch_size, fitted.val_size) == (32, 100)
    assert [stage.epochs for stage in fitted.stages] == pytest.approx([200, 100, 50])
