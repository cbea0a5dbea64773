"""What reaches standard error, on a terminal and off it: real processes, one with a pseudo-terminal."""

import os
import pty
import subprocess
import sys

import pytest

from tenfold.console import percent, plural

SHOW_BAR = """
from tenfold.console import progress, log_info, show_logs
show_logs()
with progress("training", 1000) as bar:
    bar(500, note="loss 1.234")
log_info("done [bold]literally[/bold] :x:")
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


@pytest.mark.parametrize(
    ("share", "digits", "text"),
    [
        (1.0, 1, "100.0 %"),
        (0.9997, 1, "> 99.9 %"),
        (0.9994, 1, "99.9 %"),
        (0.99996, 2, "> 99.99 %"),
        (0.999, 0, "> 99 %"),
        (0.5, 0, "50 %"),
        (0.0, 2, "0.00 %"),
        (0.0004, 1, "< 0.1 %"),
        (0.0006, 1, "0.1 %"),
        (0.00004, 2, "< 0.01 %"),
    ],
)
def test_only_all_is_a_hundred_percent(share: float, digits: int, text: str) -> None:
    """0.9997 was said to be 100 %."""
    assert percent(share, digits) == text


def test_a_count_has_its_noun_in_the_right_number() -> None:
    """It was "1 images", "1 classes"."""
    counted = [plural(1, "image"), plural(0, "image"), plural(2000, "image"), plural(1, "class"), plural(3, "class")]
    assert counted == ["1 image", "0 images", "2,000 images", "1 class", "3 classes"]
