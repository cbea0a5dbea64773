"""Ctrl-C and SIGTERM, answered between two steps and never within one."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, NoReturn

from tenfold.errors import Terminated


class DeferredSignals:
    """Holds back Ctrl-C and SIGTERM, so that they never land in the middle of a step; a second one is not held."""

    def __init__(self) -> None:
        self._held: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "DeferredSignals":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._hold) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if error is None:
            self.release()  # what came after the last step

    def _hold(self, number: int, _frame: FrameType | None) -> None:
        if self._held is not None:
            self._held = number
            self.release()
        self._held = number

    @property
    def waiting(self) -> bool:
        """Whether a signal came."""
        return self._held is not None

    def raise_pending(self) -> NoReturn:
        """Raise what came, here or on another rank."""
        self.release()
        raise Terminated

    def release(self) -> None:
        """Raise what came, if anything: `KeyboardInterrupt` or `Terminated`."""
        if self._held is not None:
            raise KeyboardInterrupt if self._held == signal.SIGINT else Terminated
