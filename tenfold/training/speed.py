"""The machine's speed, by which seconds measured on different machines are compared."""

import statistics
import time

import torch

NORMAL_RATE = 750.0
"""GFLOP/s of bfloat16 matrix products on the machine that normalised seconds refer to."""


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
