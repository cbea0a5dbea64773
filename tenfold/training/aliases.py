"""Names that recipes, models and checkpoints of before have for things, so that old files keep loading."""

import json
from typing import Any

from tenfold.data.resize import with_current_resize

RECIPE_FIELDS = {
    "easy_share": "prune_fraction",
    "judge_widths": "proxy_widths",
    "small_share": "low_res_fraction",
    "small_size": "low_res_size",
    "frozen_share": "freeze_fraction",
    "views": "tta",
    "unsure_share": "tta_fraction",
    "whitening_epochs": "whiten_bias_epochs",
    "bias_rate": "bias_lr",
    "head_rate": "head_lr",
    "decay": "weight_decay",
    "standardize": "normalize",
    "shift": "translate",
    "shift_share": "affine_translate",
    "rotate": "degrees",
}
"""Fields of a recipe: old name, name now."""


def with_current_names(text: str | bytes, trained: bool = False) -> str | bytes:
    """The JSON of a recipe, or of a model and its network, with today's names; what is no object as it is.

    trained: whether it is a run's, whose network did without the fields that it never used, whatever their values.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # said by who reads it
        return text
    renamed = rename_recipe_fields(value)
    if isinstance(renamed, dict):
        renamed = with_current_resize(renamed)
    if trained and isinstance(renamed, dict) and isinstance(renamed.get("network"), dict):
        renamed = renamed | {"network": without_unused_fields(renamed["network"], at_any_value=True)}
    return text if renamed == value else json.dumps(renamed)


def rename_recipe_fields(value: Any) -> Any:
    """A recipe as plain data with today's field names; anything else, and what is not understood, unchanged.

    Where both names of a field are there the old one stays, and is reported as unknown.
    """
    if not isinstance(value, dict):
        return value
    todays = {name: current_field(name) for name in value}
    renamed = {name if todays[name] in value else todays[name]: content for name, content in value.items()}
    if "easy_share" in value and value.get("judge_widths"):  # it had a second meaning
        renamed["proxy_prune_fraction"] = renamed.pop("prune_fraction")
    if "network" in value:
        renamed["network"] = rename_network_fields(value["network"])
    return renamed


def current_field(name: str) -> str:
    """Today's name of a recipe's field, which may be dotted: `stages.0.learning_rate`."""
    first, dot, rest = name.partition(".")
    return RECIPE_FIELDS.get(first, first) + dot + rest


def rename_network_fields(value: Any) -> Any:
    """A network's spec as plain data with today's fields; anything else unchanged.

    Batch norm kept `norm_momentum` of its old value, and now takes 1 minus that.
    """
    if not isinstance(value, dict):
        return value
    kept = value.get("norm_momentum")
    if isinstance(kept, int | float) and not isinstance(kept, bool) and "batch_norm_momentum" not in value:
        others = {name: content for name, content in value.items() if name != "norm_momentum"}
        value = others | {"batch_norm_momentum": 1 - kept}
    return without_unused_fields(value)


NETWORK_FIELDS = {
    "widths": [32, 128, 256],
    "depth": 2,
    "residual": False,
    "whitening": 3,
    "whitening_pairs": 16,
    "stride": 1,
    "first_activation": "gelu",
    "head_scale": 1.0,
    "batch_norm_momentum": 0.4,
    "dropout": 0.0,
}
"""Fields that both networks had, though each used some only, and their defaults then."""
UNUSED_FIELDS = {"whitened": {"dropout"}, "reference": NETWORK_FIELDS.keys() - {"batch_norm_momentum", "dropout"}}
"""By network: those of them that it never used."""


def without_unused_fields(network: dict[str, Any], at_any_value: bool = False) -> dict[str, Any]:
    """A network's spec without the fields that it never used, as far as they are at their defaults or `at_any_value`.

    Where a value was set, a recipe is refused: it asks for what it would not get.
    """
    name = network.get("name", "whitened")
    unused = UNUSED_FIELDS.get(name, set()) if isinstance(name, str) else set()
    kept = {
        field: value
        for field, value in network.items()
        if field not in unused or not (at_any_value or value == NETWORK_FIELDS[field])
    }
    return kept if len(kept) < len(network) else network


def target_error_in(calibration: dict[str, Any]) -> Any:
    """The target error of a calibration as results.json has it, or None; earlier versions named it `promised_error`."""
    return calibration.get("target_error", calibration.get("promised_error"))


TENSOR_PREFIXES = {"judge.": "proxy.", "sampler.kept": "sampler.keep_mask"}
"""How names of tensors in checkpoints began: old, now."""


def rename_tensors(tensors: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's tensors under today's names."""

    def current(name: str) -> str:
        for old, new in TENSOR_PREFIXES.items():
            if name.startswith(old):
                return new + name[len(old) :]
        return name

    return {current(name): tensor for name, tensor in tensors.items()}
