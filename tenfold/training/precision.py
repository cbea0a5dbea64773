"""Number formats: which one convolutions and matrix products are computed in, and why."""

from collections.abc import Mapping
from typing import Any

import torch


def best_dtype(device: torch.device) -> tuple[torch.dtype, str]:
    """The fastest format that is safe on a device, and why, as a sentence."""
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "bfloat16: the GPU has it"
        return torch.float32, "float32: the GPU has no bfloat16"
    if device.type == "mps":
        return torch.float32, "float32: the safe choice on MPS"
    if cpu_has_bfloat16():
        return torch.bfloat16, "bfloat16: the CPU has instructions for it"
    return torch.float32, "float32: no bfloat16 instructions are known of this CPU"


def cpu_features() -> Mapping[str, Any]:
    """What the CPU has, by name, as torch reports it; nothing where this torch does not."""
    return getattr(torch.cpu, "get_capabilities", dict)()


def cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware; emulation would be slower than float32."""
    features = cpu_features()
    return any(features.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
