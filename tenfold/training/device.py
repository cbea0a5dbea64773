"""What the machine offers and what a run will use of it, each choice with the sentence that explains it."""

import ctypes
import os
import platform
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tenfold.errors import UsageError, did_you_mean
from tenfold.machine import cores, cores_message

DEVICES = ("auto", "cpu", "cuda", "mps")
NORMAL_RATE = 750.0
"""GFLOP/s of bfloat16 matrix products on the machine that normalised seconds refer to."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_KEEP_BYTES = (1 << 31) - 1  # the most that mallopt takes


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


def select_device(device: str = "auto", dtype: torch.dtype | None = None) -> DeviceConfig:
    """Choose device, dtype and threads, and set the allocator up. Raises `UsageError` for a device that is not here."""
    chosen = torch.device(_choose_device(device))
    why_device = f"device {chosen}: {'as asked' if device != 'auto' else 'the fastest kind found here'}"
    best, why_dtype = _best_dtype(chosen)
    if dtype is not None:
        best, why_dtype = dtype, f"{str(dtype).removeprefix('torch.')}: as asked"
    reasons = [why_device, why_dtype]
    if chosen.type == "cpu":
        reasons += [_set_threads(), keep_freed_memory()]
    return DeviceConfig(chosen, best, torch.get_num_threads(), tuple(reasons))


def _set_threads() -> str:
    """Use no more threads than a CPU quota allows, which torch does not know of; say how many, and why."""
    variable = next((name for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if os.environ.get(name)), None)
    if variable is None and torch.get_num_threads() > cores():
        torch.set_num_threads(cores())
        return f"{cores()} thread{'s' if cores() > 1 else ''}: {cores_message()}"
    count = torch.get_num_threads()
    return f"{count} thread{'s' if count != 1 else ''}" + (f": {variable}" if variable else "")


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


def _best_dtype(device: torch.device) -> tuple[torch.dtype, str]:
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


def matmul_gflops(dtype: torch.dtype = torch.bfloat16, size: int = 2048, seconds: float = 1.0) -> float:
    """Measure GFLOP/s of matrix products on the CPU, those of bfloat16 being the yardstick of normalised seconds.

    That of the median product, so that a moment's interruption does not count.
    """
    matrix = torch.randn(size, size, generator=torch.Generator().manual_seed(0)).to(dtype)
    for _ in range(5):
        matrix @ matrix
    taken: list[float] = []
    while sum(taken) < seconds:
        began = time.perf_counter()
        matrix @ matrix
        taken.append(time.perf_counter() - began)
    return 2 * size**3 / statistics.median(taken) / 1e9


def keep_freed_memory() -> str:
    """Tell glibc to keep big freed buffers instead of returning them to the kernel; say what was done.

    Without it every training step pays page faults for its activations, up to 30 % of the time at large batches.
    Nothing is changed where the user set the thresholds or where the C library is another one.
    """
    if os.environ.get("MALLOC_MMAP_THRESHOLD_") or os.environ.get("MALLOC_TRIM_THRESHOLD_"):
        return "allocator: left as the environment sets it"
    if platform.libc_ver()[0] != "glibc":
        return "allocator: the system's own (only glibc's is tuned)"
    libc = ctypes.CDLL(None)
    accepted = [libc.mallopt(option, _KEEP_BYTES) for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD)]
    return "allocator: glibc, keeps freed buffers" if all(accepted) else "allocator: glibc refused the thresholds"
