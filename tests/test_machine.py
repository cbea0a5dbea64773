"""What a process knows of itself, beside what its parent saw."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tenfold import machine
from tenfold.machine import cores, cores_message, cpu_quota, peak_memory


def answer(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_a_process_knows_when_it_began() -> None:
    """By the calendar it began up to a second off: the time of the boot is known to the second only."""
    code = "import time; time.sleep(0.5); from tenfold.machine import process_seconds; print(process_seconds())"
    began = time.perf_counter()
    seconds = float(answer(code))
    assert 0.5 <= seconds <= time.perf_counter() - began + 0.02, "a hundredth of a second is a tick"


def test_peak_memory_is_the_process_s_own() -> None:
    """By getrusage a child began with its parent's peak."""
    ballast = np.ones(300_000_000, np.uint8)
    mine, code = peak_memory(), "from tenfold.machine import peak_memory; print(peak_memory())"
    child = int(answer(code))
    assert 1e6 < child < 1e8 < ballast.nbytes < mine
    held = int(answer(f"data = bytearray(b'x' * 200_000_000); {code}"))
    assert child + 1.9e8 < held < child + 4.5e8


# --- CPU quotas ------------------------------------------------------------------------------------------------------

GROUPED = """
import os, pathlib, sys
from tenfold import machine
machine._SELF, machine._CGROUPS = pathlib.Path(sys.argv[1]) / "self", pathlib.Path(sys.argv[1]) / "cgroup"
machine._affinity = lambda: 8
import torch
before = torch.get_num_threads()
from tenfold.training.device import select_device
plan = select_device("cpu")
print(before, torch.get_num_threads(), plan.threads, plan.reasons[2], sep="|")
"""


def write_groups(folder: Path, membership: str, files: dict[str, str]) -> None:
    """What the kernel would show of a process: its groups' names, and the files of those that are there."""
    (folder / "self").mkdir()
    (folder / "self" / "cgroup").write_text(membership)
    for name, content in files.items():
        path = folder / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


@pytest.mark.parametrize(
    ("membership", "files", "quota", "used"),
    [
        ("0::/\n", {"cpu.max": "150000 100000"}, 1.5, 2),
        ("0::/pod/box\n", {"pod/cpu.max": "200000 100000", "pod/box/cpu.max": "max 100000"}, 2.0, 2),
        ("0::/pod/box\n", {"pod/cpu.max": "900000 100000", "pod/box/cpu.max": "25000 50000"}, 0.5, 1),
        ("0::/pod\n", {"pod/cpu.max": "1600000 100000"}, 16.0, 8),
        ("0::/pod\n", {"pod/cpu.max": "max 100000"}, None, 8),
        ("0::/another\n", {"pod/cpu.max": "100000 100000"}, None, 8),
        (
            "4:cpu,cpuacct:/docker/12\n0::/docker/12\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "310000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            3.1,
            4,
        ),
        ("3:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, None, 8),
        ("3:cpuset:/a\n", {"cpuset/a/cpu.cfs_quota_us": "100000", "cpuset/a/cpu.cfs_period_us": "100000"}, None, 8),
        ("0::/\n", {"cpu.max": "nonsense"}, None, 8),
    ],
)
def test_a_quota_of_the_group_or_of_one_above_it_counts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    membership: str,
    files: dict[str, str],
    quota: float | None,
    used: int,
) -> None:
    write_groups(tmp_path, membership, files)
    monkeypatch.setattr(machine, "_SELF", tmp_path / "self")
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "_affinity", lambda: 8)
    assert (cpu_quota(), cores()) == (quota, used)
    few = f"{used} cores of 8, by its CPU quota of {quota}" if used > 1 else "1 core of 8, by its CPU quota of 0.5"
    assert cores_message() == (few.replace(".0", "") if used < 8 else "8 cores")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "1|1|1 thread: 1 core of 8, by its CPU quota of 0.5"),
        ({"OMP_NUM_THREADS": "2"}, "2|2|2 threads: OMP_NUM_THREADS"),
    ],
)
def test_torch_uses_no_more_threads_than_the_quota_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    """It began one a core; throttled, each step then waited for the slowest. What the user sets stays."""
    write_groups(tmp_path, "0::/\n", {"cpu.max": "50000 100000"})
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    words = [sys.executable, "-c", GROUPED, str(tmp_path)]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    assert said.partition("|")[2] == expected
