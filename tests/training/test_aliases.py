"""Names of before: what files written with them mean today. Those of recipe fields are in test_recipe.py."""

from pathlib import Path

import torch

from tenfold.training.aliases import current_field, rename_network_fields, rename_tensors
from tenfold.training.checkpoint import Checkpoint


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
