"""Jupyter: progress in one output block that is updated in place, and images as HTML.

Open to every package; IPython is never required.
"""

import base64
import contextlib
import html
import sys
import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any

WIDTH = 30
SECONDS_BETWEEN_UPDATES = 0.2


def is_here() -> bool:
    """Whether this process is a notebook's kernel."""
    ipython = sys.modules.get("IPython")  # a kernel has imported it
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")


def images_html(pngs: Iterable[tuple[str, bytes]]) -> str:
    """Images, each with its name, as HTML that needs no file beside it."""
    return "\n".join(
        f'<img alt="{html.escape(name)}" style="max-width: 100%" '
        f'src="data:image/png;base64,{base64.b64encode(content).decode()}">'
        for name, content in pngs
    )


class Output:
    """One output block of a cell; it appears with the first text."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, text: str) -> None:
        """Replace what the block says."""
        from IPython.display import display

        content = {"text/plain": text}
        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)


_output: ContextVar[Output | None] = ContextVar("_output", default=None)


@contextlib.contextmanager
def one_output() -> Iterator[Output]:
    """The output block of the enclosing call, or a new one for this block of code."""
    existing = _output.get()
    if existing is not None:
        yield existing
        return
    output = Output()
    token = _output.set(output)
    try:
        yield output
    finally:
        _output.reset(token)


class Bar:
    """A progress bar of text."""

    def __init__(self, output: Output, description: str, total: float | None, done: float):
        self.output, self.description, self.total, self.done, self.first = output, description, total, done, done
        self.note = ""
        self.started, self.shown = time.perf_counter(), 0.0

    def advance(self, amount: float, note: str = "", total: float | None = None) -> None:
        """Move by `amount`; the block is redrawn a few times a second, and at the end."""
        self.done, self.note, self.total = self.done + amount, note or self.note, total or self.total
        now = time.perf_counter()
        if now - self.shown >= SECONDS_BETWEEN_UPDATES or self.done == self.total:
            self.shown = now
            self.output.show(self.text(now - self.started))

    def text(self, seconds: float) -> str:
        """The bar after so many seconds."""
        if not self.total:
            return f"{self.description} {self.done:,.0f}  {self.note}".rstrip()
        share = min(1.0, self.done / self.total)
        bar = ("█" * round(WIDTH * share)).ljust(WIDTH, "░")
        left = seconds * (self.total - self.done) / max(self.done - self.first, 1e-9)
        remaining = f"{int(left) // 60}:{int(left) % 60:02d} left" if share < 1 else f"{seconds:.1f} s"
        return f"{self.description} {bar} {share:.0%}  {self.note}  {remaining}"
