"""Number formats: which one convolutions and matrix products are computed in, and why."""

from collections.abc import Mapping
from typing import Any, Final

import torch

from tenfold.errors import UsageError, did_you_mean

DTYPES: Final = {"bfloat16": torch.bfloat16, "float32": torch.float32}
"""Formats that can be asked for, by name."""


def find_dtype(name: str) -> torch.dtype | None:
    """The format of that name; None for `auto`. Raises `UsageError`."""
    if name == "auto":
        return None
    if name not in DTYPES:
        choices = ("auto", *DTYPES)
        raise UsageError(f"unknown dtype {name!r}: choose {', '.join(choices)}{did_you_mean(name, choices)}")
    return DTYPES[name]


def best_dtype(device: torch.device) -> tuple[torch.dtype, str]:
    """The fastest format that is safe on a device, and why, as a sentence."""
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "bfloat16: the GPU has it"
        return torch.float32, "float32: the GPU has no bfloat16"
    if device.type == "mps":
        return torch.float32, "float32: the safe choice on MPS"
    if not cpu_has_bfloat16():
        return torch.float32, "float32: no bfloat16 instructions are known of this CPU"
    if not bfloat16_pays():
        return torch.float32, "float32: on Intel's CPUs bfloat16 is faster with AMX only, which is not here"
    return torch.bfloat16, "bfloat16: the CPU has instructions for it"


def cpu_features() -> Mapping[str, Any]:
    """What the CPU has, by name, as torch reports it; nothing where this torch does not."""
    return getattr(torch.cpu, "get_capabilities", dict)()


def cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware; emulation would be slower than float32."""
    features = cpu_features()
    return any(features.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def bfloat16_pays() -> bool:
    """Whether the CPU multiplies bfloat16 faster than float32.

    Zen 5 and AMX do; an Intel Xeon with AVX-512-BF16 but without AMX, as many virtual machines are, takes twice as long
    as in float32 (docs/log.md, 2026-11-29).
    """
    features = cpu_features()
    intel = str(features.get("cpu_name", "")).startswith("Intel")
    return cpu_has_bfloat16() and (not intel or bool(features.get("amx_bf16")))
