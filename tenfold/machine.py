"""Facts about the machine and about this process. Open to every package, as `errors` is."""

import math
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_SELF, _CGROUPS = Path("/proc/self"), Path("/sys/fs/cgroup")


def cores() -> int:
    """Cores that this process may use: those it may run on, or its CPU quota, rounded up, where that is less."""
    quota = cpu_quota()
    return _affinity() if quota is None else min(_affinity(), max(1, math.ceil(quota)))


def cores_message() -> str:
    """How many cores this process may use, and why they are fewer than there are."""
    quota, here = cpu_quota(), _affinity()
    why = f" of {here}, by its CPU quota of {quota:.3g}" if quota is not None and cores() < here else ""
    return f"{cores()} core{'s' if cores() > 1 else ''}{why}"


def cpu_quota() -> float | None:
    """How many CPUs' time Linux's control groups allow this process: the least of its group and those above it.

    Containers are limited in this way (`docker run --cpus`, Kubernetes' `limits.cpu`). None where there is no limit.
    """
    found = [_quota_of(folder) for folder in _control_groups()]
    return min((quota for quota in found if quota is not None), default=None)


def _control_groups() -> Iterator[Path]:
    """Folders of this process's CPU control groups and of those above, of both versions; not all need be there.

    In a container without a namespace of its own the groups' names are the host's, and only the topmost folder exists.
    """
    try:
        lines = (_SELF / "cgroup").read_text().splitlines()
    except OSError:  # another system
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        mounts = ("cpu", "cpu,cpuacct") if "cpu" in controllers.split(",") else () if controllers else ("", "unified")
        below = Path(name.lstrip("/"))
        yield from (_CGROUPS / mount / group for mount in mounts for group in (below, *below.parents))


def _quota_of(folder: Path) -> float | None:
    """CPU time per time, from the files of version 2 or 1; None where there is no limit."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((folder / name).read_text() for name in names).split()
        except (OSError, ValueError):
            continue
        if quota.isdigit() and period.isdigit() and int(period):  # else it is "max", or -1
            return int(quota) / int(period)
    return None


def _affinity() -> int:
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


def free_memory() -> int:
    """Bytes of memory that more could be had of without swapping, by what the system says."""
    import psutil

    return int(psutil.virtual_memory().available)
