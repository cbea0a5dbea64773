"""Where remarks and progress go: standard error, so that standard output holds results only.

Open to every room, as `errors` is. Rich is imported on first use, to keep start-up short. Rich honours `NO_COLOR`.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from tenfold.errors import Terminated

if TYPE_CHECKING:
    from rich.console import Console

Advance = Callable[..., None]
"""advance(amount, note="…"): move a progress bar by `amount`, and say something beside it."""


@functools.cache
def stderr() -> "Console":
    """The console of remarks and progress."""
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


def remark(text: str) -> None:
    """Say one line on standard error, literally: brackets in it are no markup, names of files no commands."""
    stderr().print(printable(text), markup=False)


def warn(text: str) -> None:
    """Say one line that must not be overlooked: as `remark`, after "Warning:", and bold on a terminal."""
    stderr().print(f"Warning: {printable(text)}", markup=False, style="bold yellow")


@contextlib.contextmanager
def resumable(unit: str, done: Callable[[], int], total: int | None = None) -> Iterator[None]:
    """Where Ctrl-C or SIGTERM ends the block, say how many are done, and that the same command resumes."""
    try:
        yield
    except (KeyboardInterrupt, Terminated):
        of = "" if total is None else f" of {total:,}"
        remark(f"stopped after {done():,}{of} {unit}; the same command resumes")
        raise


@contextlib.contextmanager
def progress(
    description: str, total: float | None, *, unit_is_bytes: bool = False, done: float = 0
) -> Iterator[Advance]:
    """Show a progress bar with the time left while the block runs; only on a terminal.

    total: None where it is not known yet; `advance(0, total=…)` tells it when it is.
    """
    if not sys.stderr.isatty():
        yield lambda amount, note="", total=None: None
        return
    from rich import progress as bars

    amount_column = bars.DownloadColumn() if unit_is_bytes else bars.MofNCompleteColumn()
    columns = ("{task.description}", bars.BarColumn(bar_width=30), amount_column, "{task.fields[note]}")
    with bars.Progress(*columns, bars.TimeRemainingColumn(), console=stderr(), transient=True) as display:
        task = display.add_task(description, total=total, completed=int(done), note="")

        def advance(amount: float, note: str = "", total: float | None = None) -> None:
            display.update(task, advance=amount, note=note, total=total)

        yield advance
