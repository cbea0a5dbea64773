"""Names that recipes, models and checkpoints of before have for things, so that old files keep loading."""

import json
from typing import Any

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


def with_current_names(text: str | bytes) -> str | bytes:
    """The JSON of a recipe, or of a model and its network, with today's field names; what is no object as it is."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # said by who reads it
        return text
    renamed = rename_recipe_fields(value)
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
    """A network's spec as plain data: batch norm kept `norm_momentum` of its old value, and now takes 1 minus that."""
    kept = value.get("norm_momentum") if isinstance(value, dict) else None
    if not isinstance(kept, int | float) or isinstance(kept, bool) or "batch_norm_momentum" in value:
        return value
    others = {name: content for name, content in value.items() if name != "norm_momentum"}
    return others | {"batch_norm_momentum": 1 - kept}


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
