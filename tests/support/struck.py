"""The command, with one change: it saves a checkpoint after every step, so that there is something to hit.

At its n-th checkpoint it can be struck at a chosen place. Alone: `python -m tests.support.struck PLACE N WORD…`.
"""

import errno
import os
import signal
import sys
from pathlib import Path

import pytest

from tenfold import cli
from tenfold.training import recorder
from tests.support.few_shapes import use_few_shapes

SHAPES = (16, 100)
"""Size of the images of `shapes`, and number of those to test on: what is tested here does not depend on them."""
SIGNALS = {name: getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGSTOP")}


class Strikes:
    """Takes the place of `os.fsync` and `os.replace`."""

    def __init__(self, place: str, nth: int):
        self.place, self.nth, self.count = place, nth, 0
        self.real_fsync, self.real_replace = os.fsync, os.replace

    def due(self, here: str) -> bool:
        return self.place == here and self.count == self.nth

    def fsync(self, handle: int) -> None:
        if "step-" in Path(f"/proc/self/fd/{handle}").readlink().name:
            self.count += 1
            if self.due("mid-write"):
                os.ftruncate(handle, os.fstat(handle).st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            if self.due("disk full"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if self.place in SIGNALS and self.due(self.place):
                os.kill(os.getpid(), SIGNALS[self.place])
        self.real_fsync(handle)

    def replace(self, source: str, target: str) -> None:
        is_checkpoint = Path(target).name.startswith("step-")
        if is_checkpoint and self.due("before rename"):
            os.kill(os.getpid(), signal.SIGKILL)
        self.real_replace(source, target)
        if is_checkpoint and self.due("after rename"):
            os.kill(os.getpid(), signal.SIGKILL)


def run(place: str, nth: int, *words: str | Path) -> None:
    use_few_shapes(pytest.MonkeyPatch(), *SHAPES)
    recorder.CHECKPOINT_SECONDS, recorder.CHECKPOINT_SHARE = 0.0, 1e9
    strikes = Strikes(place, nth)
    os.fsync, os.replace = strikes.fsync, strikes.replace  # type: ignore[assignment]
    sys.argv = ["tenfold", *map(str, words)]
    cli.main()


if __name__ == "__main__":
    run(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
