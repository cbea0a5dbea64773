"""Image files → pixels, in processes of their own that are ended when they take too long or too much.

A few kilobytes can keep a decoder busy for minutes, or have it take gigabytes, in ways that no header tells; a thread
could not be stopped. What comes back is pixels or a sentence, never an object to be unpickled.
"""

import contextlib
import os
import queue
import signal
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from tenfold.data.image import decode
from tenfold.errors import ImageError, StorageError, TooManyPixelsError
from tenfold.serving.serve.limits import Limits

_NICE = 10
"""Decoding yields to the service itself, so that refusals and the health are quick however much is decoded."""
_LENGTH = struct.Struct(">Q")
_PIXELS, _UNSOUND, _TOO_LARGE = b"pus"
_USED_UP = getattr(signal, "SIGPROF", 0)
"""What a process is sent that has computed for as long as it may. Windows has no such signal."""


@dataclass(frozen=True)
class Usage:
    """What the processes use."""

    processes: int
    cpu_seconds: float
    resident_bytes: int


class Decoders:
    """A pool of processes, started when they are first needed. `decode` is called from as many threads."""

    def __init__(self, count: int, size: int, resize: str, limits: Limits, bit_depth: int = 16):
        options = (size, resize, limits.pixels, bit_depth, limits.memory, limits.decoding)
        self._command = [sys.executable, "-P", "-m", __name__, *map(str, options)]
        self._limits, self._size = limits, size
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes] | None] = queue.SimpleQueue()
        self._count = count
        self._alive: set[subprocess.Popen[bytes]] = set()
        self._cpu_seconds = 0.0
        for _ in range(count):
            self._idle.put(None)

    def start(self) -> None:
        """Begin the processes now and wait until they are ready, so that the first image need not.

        Raises `StorageError` where the system has no room for them.
        """
        for is_ready in (False, True):  # all are started before one is waited for
            for _ in range(self._count):
                process = self._idle.get()
                try:
                    process = process or self._begin()
                    if is_ready:
                        _await(process)
                except (OSError, EOFError) as error:
                    reason = str(error) or "it ended at once"
                    raise StorageError(f"no process to decode images in can be started: {reason}") from error
                finally:  # else `close` waited for its place for ever
                    self._idle.put(process)

    def close(self) -> None:
        """End them all, at once: nobody waits for what they do."""
        for process in list(self._alive):
            process.kill()
        for _ in range(self._count):
            self._end(self._idle.get())

    def usage(self) -> Usage:
        """What they use now, on Linux; elsewhere only how many there are. Seconds count from the first one's start."""
        ended = _ended_seconds()  # before the others are looked at: whatever ends meanwhile is not counted twice
        alive = list(self._alive)
        used = [_read_usage(process.pid) for process in alive]
        self._cpu_seconds = max(self._cpu_seconds, ended + sum(seconds for seconds, _ in used))
        return Usage(len(alive), self._cpu_seconds, sum(held for _, held in used))

    def decode(self, content: bytes) -> np.ndarray:
        """Bytes of an image file to uint8 S×S×3.

        Raises `ImageError`, for too many pixels `TooManyPixelsError`; `TimeoutError` where it had too little of a core.
        """
        process, sound = self._idle.get(), None
        try:
            if process is None or process.poll() is not None:
                process = self._begin()
                _await(process)  # outside the time that one image is given
            answered = self._ask_in_time(process, content)
            sound = process
        finally:  # whatever happened, the next image finds a place
            if sound is None:
                self._end(process)
            self._idle.put(sound)
        kind, payload = answered[0], answered[1:]
        if kind != _PIXELS:
            raise (TooManyPixelsError if kind == _TOO_LARGE else ImageError)(payload.decode())
        return np.frombuffer(payload, np.uint8).reshape(self._size, self._size, 3)

    def _ask_in_time(self, process: "subprocess.Popen[bytes]", content: bytes) -> bytes:
        """Ask, and end it once the request has been answered without it; its share of a core it limits itself."""
        timer = threading.Timer(self._limits.seconds, process.kill)
        timer.start()
        began = time.monotonic()
        try:
            return _ask(process, content)
        except (OSError, EOFError):
            late = time.monotonic() - began >= self._limits.seconds
            process.kill()  # it may live, though it hears or says no more
            if process.wait() == -_USED_UP:
                raise ImageError(f"not read within {self._limits.decoding:g} seconds of a core's time") from None
            raise TimeoutError if late else ImageError("cannot be read") from None
        finally:
            timer.cancel()

    def _begin(self) -> "subprocess.Popen[bytes]":
        # what image libraries write to standard error is not for the log, which is JSON
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        process: subprocess.Popen[bytes] = subprocess.Popen(self._command, **pipes)  # type: ignore[call-overload]
        self._alive.add(process)
        return process

    def _end(self, process: "subprocess.Popen[bytes] | None") -> None:
        if process is not None:
            process.kill()
            process.communicate()
            self._alive.discard(process)


def _await(process: "subprocess.Popen[bytes]") -> None:
    """Ask for nothing: it is ready when it says that this is no image."""
    _ask(process, b"")


def _ask(process: "subprocess.Popen[bytes]", content: bytes) -> bytes:
    assert process.stdin and process.stdout
    _send(process.stdin, content)
    return _receive(process.stdout)


def _ended_seconds() -> float:
    """CPU seconds of this process's children that have ended."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0.0
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _read_usage(pid: int) -> tuple[float, int]:
    """CPU seconds and resident bytes of a process; zeros where the system does not say, or it has just ended."""
    try:
        folder = Path("/proc", str(pid))
        fields = (folder / "stat").read_text().rpartition(")")[2].split()  # the third field is the first here
        pages = int((folder / "statm").read_text().split()[1])
        seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return 0.0, 0
    return seconds, pages * os.sysconf("SC_PAGE_SIZE")


def _send(stream: IO[bytes], content: bytes) -> None:
    stream.write(_LENGTH.pack(len(content)))
    stream.write(content)
    stream.flush()


def _receive(stream: IO[bytes]) -> bytes:
    """What `_send` sent. Raises `EOFError` where the other side has ended."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(head)
    content = stream.read(length)
    if len(content) < length:
        raise EOFError
    return content


# --- in the process ----------------------------------------------------------------------------------------------


def main() -> None:
    """Decode what comes until nothing more does."""
    size, resize, seconds = int(sys.argv[1]), sys.argv[2], float(sys.argv[6])
    pixels, bit_depth, memory = map(int, sys.argv[3:6])
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # meant for the service, which finishes what it has started
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(_NICE)
    _limit_memory(memory)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            content = _receive(sys.stdin.buffer)
            _limit_time(seconds)
            answer = _answer(content, size, resize, pixels, bit_depth)
            _limit_time(0)
            _send(sys.stdout.buffer, answer)


def _answer(content: bytes, *options: Any) -> bytes:
    try:
        return bytes([_PIXELS]) + decode(content, *options).tobytes()
    except TooManyPixelsError as error:
        return bytes([_TOO_LARGE]) + str(error).encode(errors="replace")
    except ImageError as error:
        return bytes([_UNSOUND]) + str(error).encode(errors="replace")


def _limit_time(seconds: float) -> None:
    """End this process once it has computed for so long, 0: not at all, where the system can (Linux, macOS).

    What it waits for a core beside a training run is not the image's fault and does not count.
    """
    if _USED_UP:
        signal.signal(_USED_UP, signal.SIG_DFL)  # were it ignored by who began us, nothing would end it
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _limit_memory(memory: int) -> None:
    """Allow so many bytes more than are in use now, where the system can (Linux)."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
