"""What every room may ask of the machine and of its own process. Open to every room, as `errors` is."""

import os
import re
import sys
import time
from pathlib import Path

_SELF = Path("/proc/self")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def process_seconds() -> float:
    """Seconds since the operating system started this process."""
    if sys.platform == "linux":  # from the boot on; the calendar's time of the boot is known to the second only
        started = int((_SELF / "stat").read_text().rpartition(")")[2].split()[19])  # field 22, in ticks
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")
    import psutil

    return time.time() - psutil.Process().create_time()


def peak_memory() -> int:
    """The most memory, in bytes, that this process ever held; 0 where the system does not say."""
    if sys.platform == "linux":  # what getrusage says includes the parent's peak
        return 1024 * int(re.findall(r"^VmHWM:\s*(\d+) kB", (_SELF / "status").read_text(), re.MULTILINE)[0])
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
