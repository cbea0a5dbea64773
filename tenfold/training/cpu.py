"""How the process uses the CPU: its threads and its memory, each choice with the sentence that explains it."""

import ctypes
import os
import platform

import torch

from tenfold.console import plural
from tenfold.machine import cores, cores_message

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_KEEP_BYTES = (1 << 31) - 1  # the most that mallopt takes


def set_threads() -> str:
    """Use no more threads than a CPU quota allows, which torch does not know of; say how many, and why."""
    variable = next((name for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if os.environ.get(name)), None)
    if variable is None and torch.get_num_threads() > cores():
        torch.set_num_threads(cores())
        return f"{plural(cores(), 'thread')}: {cores_message()}"
    count = torch.get_num_threads()
    return plural(count, "thread") + (f": {variable}" if variable else "")


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
