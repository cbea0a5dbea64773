"""What reaches standard error, on a terminal and off it: real processes, one with a pseudo-terminal."""

import os
import pty
import subprocess
import sys

SHOW_BAR = """
from tenfold.console import progress, remark
with progress("training", 1000) as bar:
    bar(500, note="loss 1.234")
remark("done [bold]literally[/bold] :x:")
"""


def run_on_terminal(code: str, **environment: str) -> str:
    """Run Python code with standard error on a terminal; return what the terminal got."""
    ours, theirs = pty.openpty()
    base = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=theirs, env={**base, **environment}
    ) as process:
        os.close(theirs)
        seen = b""
        while chunk := _read(ours):
            seen += chunk
        assert process.stdout is not None and process.stdout.read() == b""
    os.close(ours)
    return seen.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux's way to say that the other end is closed
        return b""


def test_a_terminal_gets_a_bar_and_its_note() -> None:
    seen = run_on_terminal(SHOW_BAR, COLUMNS="120", TERM="xterm")
    assert "training" in seen and "500/1000" in seen and "loss 1.234" in seen


def test_no_color_is_honoured() -> None:
    assert "\x1b[3" in run_on_terminal(SHOW_BAR, COLUMNS="120", TERM="xterm")
    assert "\x1b[3" not in run_on_terminal(SHOW_BAR, COLUMNS="120", TERM="xterm", NO_COLOR="1")


def test_elsewhere_there_are_remarks_only() -> None:
    answer = subprocess.run([sys.executable, "-c", SHOW_BAR], capture_output=True, text=True, check=True)
    assert answer.stdout == "" and answer.stderr == "done [bold]literally[/bold] :x:\n"
