"""Signals that end a command: SIGTERM and a closed terminal are raised as `Terminated`, as Ctrl-C is raised by Python.

Python drops what is raised within a finaliser, a weak reference's callback or another language's call back into
Python: it prints "Exception ignored" and the command runs on. Here such a signal is sent once more.
"""

import os
import signal
import sys
import threading
from types import FrameType

from tenfold.errors import Terminated

AGAIN_AFTER_S = 0.05  # by then the callback has returned; if not, the signal is dropped and sent once more


def handle() -> None:
    """Answer signals as a command does; to be called once, in the main thread."""
    signal.signal(signal.SIGTERM, _terminate)
    # the terminal was closed; Windows has no such signal, and under nohup it is to be ignored
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _hang_up)
    sys.unraisablehook = _send_dropped_again


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated


def _hang_up(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # of a closed terminal both the shell and the system tell
    signal.raise_signal(signal.SIGTERM)  # whoever answers that by now answers this too


def _send_dropped_again(dropped: "sys.UnraisableHookArgs") -> None:
    if not issubclass(dropped.exc_type, KeyboardInterrupt | Terminated):
        sys.__unraisablehook__(dropped)
        return
    number = signal.SIGINT if issubclass(dropped.exc_type, KeyboardInterrupt) else signal.SIGTERM
    timer = threading.Timer(AGAIN_AFTER_S, os.kill, (os.getpid(), number))
    timer.daemon = True  # a command that has ended by then needs no signal
    timer.start()
