"""Real processes without the seconds that Python and PyTorch take to start.

A server, started at first use, imports everything (see `preloaded`) and does nothing else; each process is a fork of
it. It has its own memory, signals, locks, open files and exit code as any other; only its start is not the usual one.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Mapping
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import NoReturn

from tests.support.waiting import LONG


class Fork:
    """A process that calls a function of a module, with both its streams in files."""

    def __init__(
        self, call: Callable[..., object], *arguments: object, cwd: Path | None = None, env: Mapping[str, str]
    ):
        self._streams = Path(tempfile.mkdtemp(prefix="tenfold-fork-"))
        weakref.finalize(self, shutil.rmtree, self._streams, ignore_errors=True)
        target = (self._streams, str(cwd or Path.cwd()), dict(env), call, arguments)
        self._process = _server().Process(target=_run, args=target, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Its exit code once it has one: minus the signal's number where that ended it."""
        return self._process.exitcode

    def wait(self, timeout: float = LONG) -> int:
        """Its exit code."""
        self._process.join(timeout)
        if (code := self.poll()) is None:
            self._process.kill()
            raise TimeoutError(f"still running after {timeout:.0f} s: {self.text('err')}")
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def text(self, stream: str) -> str:
        """What it has written so far to `out` or `err`."""
        with contextlib.suppress(FileNotFoundError):
            return (self._streams / stream).read_text()
        return ""


def run_command(
    *words: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run `tenfold WORDS…` in a fork, to its end."""
    return _ended(Fork(command, *words, cwd=cwd, env=os.environ if env is None else env))


def run_program(code: str, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run `python -c CODE ARGUMENTS…` in a fork, to its end."""
    return _ended(Fork(program, code, *arguments, env=os.environ))


def _ended(fork: Fork) -> "subprocess.CompletedProcess[str]":
    code = fork.wait()
    return subprocess.CompletedProcess([], code, fork.text("out"), fork.text("err"))


def command(*words: str | Path) -> None:
    """`tenfold WORDS…`, of this process."""
    from tenfold import cli

    sys.argv = ["tenfold", *map(str, words)]
    cli.main()


def program(code: str, *arguments: str | Path) -> None:
    """`python -c CODE ARGUMENTS…`, of this process."""
    sys.argv = ["-c", *map(str, arguments)]
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})


@cache
def _server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.preloaded"])
    return context


def _run(
    streams: Path, cwd: str, env: dict[str, str], call: Callable[..., object], arguments: tuple[object, ...]
) -> NoReturn:
    for number, name in ((1, "out"), (2, "err")):
        handle = os.open(streams / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, number)
        os.close(handle)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    call(*arguments)
    sys.exit(0)
