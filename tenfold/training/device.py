"""The device that a run computes on, with its number format and threads, and the sentences that explain the choice."""

from dataclasses import dataclass

import torch

from tenfold.errors import UsageError, did_you_mean
from tenfold.training.cpu import keep_freed_memory, set_threads
from tenfold.training.precision import best_dtype

DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class DeviceConfig:
    """Where and in which number format to compute.

    dtype is that of convolutions and matrix products; weights, norms, losses and optimizers stay float32.
    """

    device: torch.device
    dtype: torch.dtype
    threads: int
    reasons: tuple[str, ...]

    @property
    def dtype_name(self) -> str:
        """Short name of the dtype, such as "bfloat16"."""
        return str(self.dtype).removeprefix("torch.")

    def autocast(self) -> torch.autocast:
        """Context in which convolutions and matrix products run in `dtype`."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


def select_device(device: str = "auto", dtype: torch.dtype | None = None, why: str = "as asked") -> DeviceConfig:
    """Choose device, dtype and threads, and set the allocator up. Raises `UsageError` for a device that is not here.

    dtype: instead of the fastest one; why: the reason that is logged for it.
    """
    chosen = torch.device(_choose_device(device))
    why_device = f"device {chosen}: {'as asked' if device != 'auto' else 'the fastest kind found here'}"
    best, why_dtype = best_dtype(chosen)
    if dtype is not None:
        best, why_dtype = dtype, f"{str(dtype).removeprefix('torch.')}: {why}"
    reasons = [why_device, why_dtype]
    if chosen.type == "cpu":
        reasons += [set_threads(), keep_freed_memory()]
    return DeviceConfig(chosen, best, torch.get_num_threads(), tuple(reasons))


def _choose_device(name: str) -> str:
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return next(kind for kind in ("cuda", "mps", "cpu") if here[kind])
    kind = name.partition(":")[0]
    if kind not in here:
        raise UsageError(f"unknown device {name!r}: choose {', '.join(DEVICES)}{did_you_mean(name, DEVICES)}")
    present = here[kind] and _index_exists(name)
    if not present:
        raise UsageError(f"device {name!r} is not on this machine: choose auto or cpu")
    return name


def _index_exists(name: str) -> bool:
    kind, _, index = name.partition(":")
    if ":" not in name:
        return True
    count = torch.cuda.device_count() if kind == "cuda" else 1
    return index.isdigit() and int(index) < count
