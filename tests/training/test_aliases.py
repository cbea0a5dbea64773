"""Names of before: what files written with them mean today. Those of recipe fields are in test_recipe.py."""

import json
from pathlib import Path

import pytest
import torch

from tenfold.errors import UsageError
from tenfold.training.aliases import NETWORK_FIELDS, current_field, rename_network_fields, rename_tensors
from tenfold.training.checkpoint import Checkpoint
from tenfold.training.recipe import Recipe
from tenfold.training.recipes import FAST89, REFERENCE


def test_a_checkpoint_with_old_names_has_todays(tmp_path: Path) -> None:
    """An unfinished run of before would have said that its checkpoint does not fit the recipe."""
    names = ("judge.network.head.weight", "sampler.kept", "sampler.losses", "network.head.weight")
    old = Checkpoint(3, {name: torch.full((2,), float(i)) for i, name in enumerate(names)}, {"seconds": 1.0})
    read = Checkpoint.read(old.write(tmp_path))
    assert read and (read.step, read.notes) == (3, {"seconds": 1.0})
    todays = ("proxy.network.head.weight", "sampler.keep_mask", "sampler.losses", "network.head.weight")
    assert {name: tensor.tolist() for name, tensor in read.tensors.items()} == {
        name: [i, i] for i, name in enumerate(todays)
    }
    assert rename_tensors(read.tensors) == read.tensors


def test_a_dotted_field_keeps_what_follows_the_first_dot() -> None:
    assert current_field("easy_share") == "prune_fraction"
    assert current_field("stages.0.decay") == "stages.0.decay"


def test_what_is_no_network_stays_to_be_refused() -> None:
    for value in (
        3,
        None,
        {"norm_momentum": "0.6"},
        {"norm_momentum": True},
        {"norm_momentum": 0.6, "batch_norm_momentum": 0.4},
    ):
        assert rename_network_fields(value) is value


@pytest.mark.parametrize("recipe", [FAST89, REFERENCE], ids=lambda recipe: recipe.name)
def test_a_recipe_that_names_the_fields_of_both_networks_means_the_same(recipe: Recipe) -> None:
    """Until networks had specs of their own, every recipe.json and model.json did."""
    values = json.loads(recipe.to_json())
    old = values | {"network": NETWORK_FIELDS | values["network"]}
    assert len(old["network"]) == 11
    assert Recipe.from_json(json.dumps(old)) == recipe


@pytest.mark.parametrize(
    ("network", "field"),
    [({"name": "whitened", "dropout": 0.3}, "dropout"), ({"name": "reference", "widths": [8]}, "widths")],
)
def test_a_field_of_the_other_network_that_was_set_is_refused(network: dict[str, object], field: str) -> None:
    values = json.dumps(json.loads(REFERENCE.to_json()) | {"network": network, "l2": 0.0})
    with pytest.raises(
        UsageError,
        match=rf"^mine\.json: network\.{field}: network '{network['name']}' has no such field: leave it out$",
    ):
        Recipe.from_json(values, "mine.json")
