"""Waiting for what is to happen, never for a time in which it should have."""

import time
from collections.abc import Callable

LONG = 300.0
"""Seconds after which nothing more is expected: a safeguard on a busy machine, not a measurement."""


def wait_for(condition: Callable[[], bool], seconds: float = LONG, every: float = 0.01) -> bool:
    """Whether it comes true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(every)
    return True
