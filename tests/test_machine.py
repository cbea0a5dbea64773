"""What a process knows of itself, beside what its parent saw."""

import subprocess
import sys
import time

import numpy as np

from tenfold.machine import peak_memory


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
