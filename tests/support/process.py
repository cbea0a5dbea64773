"""The command and Python code as tests run them: within this process, or in one of their own."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest
from rich.console import Console

from tenfold import cli
from tests.support.waiting import LONG

ROOT = Path(__file__).parents[2]

Command = Callable[..., "subprocess.CompletedProcess[str]"]
"""The fixture `command`: `tenfold ARGUMENTS…` in a process of its own."""
Invoke = Callable[..., "Ended"]
"""The fixture `invoke`: the command within this process, in a tenth of the time."""
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
    usual = {"env": with_tests(), "capture_output": True, "text": True, "timeout": LONG}
    return subprocess.run(python(code, *arguments), **usual | keywords)  # type: ignore[call-overload, no-any-return]


class Ended(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def invoke(
    *arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None, input: str = ""
) -> Ended:
    """Run `tenfold ARGUMENTS…` within this process: in a folder, with an environment, with text on standard input."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["tenfold", *map(str, arguments)])
        patch.setattr(sys, "unraisablehook", sys.unraisablehook)  # set by the command
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(input.encode()), "utf-8"))
        patch.setattr("tenfold.console.stderr", lambda: Console(file=err, highlight=False, emoji=False, soft_wrap=True))
        patch.chdir(cwd or Path.cwd())
        for name in os.environ.keys() - (env or os.environ).keys():
            patch.delenv(name)
        for name, value in (env or {}).items():
            patch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            cli.main()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    code = ended.value.code
    assert isinstance(code, int)
    return Ended(code, *(_text(stream) for stream in (out, err)))


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    return stream.buffer.getvalue().decode()  # type: ignore[attr-defined, no-any-return]
