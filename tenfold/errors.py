"""The exceptions users see. Each is one clear line and carries its exit code; `cli` turns it into both.

A message says what is wrong, where, and what to do about it.
"""

from collections.abc import Iterable


class TenfoldError(Exception):
    """Base of all errors that are the user's to mend; never raised itself."""

    exit_code = 1


class UsageError(TenfoldError):
    """An option, a name or a combination that does not exist; a missing extra."""

    exit_code = 2


class DataError(TenfoldError):
    """Data that cannot be had, read or trusted."""

    exit_code = 3


class ImageError(DataError):
    """One image that cannot be read: the reason alone, to which the caller adds where it came from."""


class TooManyPixelsError(ImageError):
    """An image larger than is decoded; known from its header."""


class ModelError(TenfoldError):
    """A model or checkpoint file that is missing, damaged or of another kind; nothing to resume."""

    exit_code = 4


class DivergedError(TenfoldError):
    """Training produced a loss that is not finite."""

    exit_code = 5


class BusyError(TenfoldError):
    """A run directory or a port that another process holds."""

    exit_code = 6


class StorageError(TenfoldError):
    """The disk is full, or the file system does not let us write."""

    exit_code = 7


class RunFailedError(TenfoldError):
    """A run in a process of its own, here or elsewhere, that ended with an error; it carries that run's exit code."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class RankLostError(TenfoldError):
    """One of several processes that train together has ended, and the others cannot go on without it."""


class SkippedError(TenfoldError):
    """All was done but for some inputs, which were named as they came."""

    exit_code = 8


class Terminated(BaseException):
    """SIGTERM, raised in the main thread so that work in progress is saved as on Ctrl-C."""

    exit_code = 143


def is_memory(error: Exception) -> bool:
    """Whether memory ran out: Python says so by type, torch on a GPU, too, but on a CPU by its message only."""
    return type(error).__name__ in ("MemoryError", "OutOfMemoryError") or "can't allocate memory" in str(error)


def one_line(error: BaseException) -> str:
    """What another's error says, on one line; of a file, without its path, which the caller names."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())


def did_you_mean(word: object, choices: Iterable[str]) -> str:
    """The end of a message about an unknown `word`: "; did you mean …?" with the closest choice, or nothing."""
    from difflib import get_close_matches  # needed on errors only

    close = get_close_matches(str(word).lower(), list(choices), n=1)
    return f"; did you mean {close[0]}?" if close else ""
