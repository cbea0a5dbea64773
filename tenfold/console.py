"""Where messages and progress go: `logging` and standard error, so that standard output holds results only.

Open to every package, as `errors` is. Library code logs; the command shows it (`show_logs`), a Python program decides
for itself. Rich is imported on first use, to keep start-up short. Rich honours `NO_COLOR`.
"""

import contextlib
import functools
import logging
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING

from tenfold import notebook
from tenfold.errors import Terminated

if TYPE_CHECKING:
    from rich.console import Console

Advance = Callable[..., None]
"""advance(amount, note="…"): move a progress bar by `amount`, and say something beside it."""

logger = logging.getLogger("tenfold")
_bars = ContextVar("_bars", default=True)


@functools.cache
def stderr() -> "Console":
    """The console of messages and progress."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)


def printable(text: str) -> str:
    """Text that no terminal takes for a command, on one line: what cannot be printed is written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def percent(share: float, digits: int = 1, unit: str = " %") -> str:
    """A share as a percentage. What is not quite 100 % or 0 % is not rounded to it: 0.9997 is "> 99.9 %"."""
    number, least = f"{100 * share:.{digits}f}", 10.0**-digits
    if share < 1 and float(number) >= 100:
        return f"> {100 - least:.{digits}f}{unit}"
    if share > 0 and float(number) == 0:
        return f"< {least:.{digits}f}{unit}"
    return number + unit


def plural(count: int, noun: str) -> str:
    """A count with its noun: "1 image", "2,000 images", "3 classes"."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"


def log_info(text: str) -> None:
    """Log one line for the user."""
    logger.info("%s", printable(text))


def warn(text: str) -> None:
    """Log one line that must not be overlooked."""
    logger.warning("%s", printable(text))


class StderrHandler(logging.Handler):
    """Prints log records as plain lines on standard error, warnings with "Warning:" and bold on a terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record, literally: brackets in it are no markup."""
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            stderr().print(f"Warning: {text}", markup=False, style="bold yellow")
        else:
            stderr().print(text, markup=False)


def show_logs() -> None:
    """Let all messages appear on standard error, as the command does."""
    if not any(isinstance(handler, StderrHandler) for handler in logger.handlers):
        logger.addHandler(StderrHandler())
    logger.setLevel(logging.INFO)


@contextlib.contextmanager
def resumable(unit: str, done: Callable[[], int], total: int | None = None) -> Iterator[None]:
    """Where Ctrl-C or SIGTERM ends the block, say how many are done, and that the same command resumes."""
    try:
        yield
    except (KeyboardInterrupt, Terminated):
        of = "" if total is None else f" of {total:,}"
        log_info(f"stopped after {done():,}{of} {unit}; the same command resumes")
        raise


@contextlib.contextmanager
def progress_bars(enabled: bool) -> Iterator[None]:
    """Whether progress is shown while the block runs; a notebook shows all its bars, in turn, in one output."""
    token = _bars.set(_bars.get() and enabled)
    try:
        with notebook.one_output():
            yield
    finally:
        _bars.reset(token)


@contextlib.contextmanager
def progress(
    description: str, total: float | None, *, unit_is_bytes: bool = False, done: float = 0
) -> Iterator[Advance]:
    """Show a progress bar with the time left while the block runs; only on a terminal or in a notebook.

    total: None where it is not known yet; `advance(0, total=…)` tells it when it is.
    """
    if _bars.get() and notebook.is_here():
        with notebook.one_output() as output:
            yield notebook.Bar(output, description, total, done).advance
    elif _bars.get() and sys.stderr.isatty():
        with _terminal_bar(description, total, unit_is_bytes, done) as advance:
            yield advance
    else:
        yield lambda amount, note="", total=None: None


@contextlib.contextmanager
def _terminal_bar(description: str, total: float | None, unit_is_bytes: bool, done: float) -> Iterator[Advance]:
    from rich import progress as bars

    amount_column = bars.DownloadColumn() if unit_is_bytes else bars.MofNCompleteColumn()
    columns = ("{task.description}", bars.BarColumn(bar_width=30), amount_column, "{task.fields[note]}")
    with bars.Progress(*columns, bars.TimeRemainingColumn(), console=stderr(), transient=True) as display:
        task = display.add_task(description, total=total, completed=int(done), note="")

        def advance(amount: float, note: str = "", total: float | None = None) -> None:
            display.update(task, advance=amount, note=note, total=total)

        yield advance
