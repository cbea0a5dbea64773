"""The command and Python code as tests run them: within this process, or in one of their own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]

Command = Callable[..., "subprocess.CompletedProcess[str]"]
"""The fixture `command`: `tenfold ARGUMENTS…` in a process of its own."""
Invoke = Callable[..., tuple[int, str, str]]
"""The fixture `invoke`: the command within this process; its exit code, standard output, standard error."""
FakeNpm = Callable[[str], None]
"""The fixture `fake_npm`: puts a client called npm first on the PATH that runs a line of shell."""


def with_tests() -> dict[str, str]:
    """The environment in which a process can import `tests.support`."""
    return os.environ | {"PYTHONPATH": str(ROOT)}


def python(code: str, *arguments: str | Path) -> list[str]:
    """The command line that runs `code` with these arguments."""
    return [sys.executable, "-c", code, *map(str, arguments)]


def run_python(code: str, *arguments: str | Path, **keywords: object) -> "subprocess.CompletedProcess[str]":
    """Run `code` in a process of its own, which can import `tests.support`; keywords go to `subprocess.run`."""
    usual = {"env": with_tests(), "capture_output": True, "text": True, "timeout": 60}
    return subprocess.run(python(code, *arguments), **usual | keywords)  # type: ignore[call-overload, no-any-return]
