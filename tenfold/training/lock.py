"""Who works on a run directory: one process at a time, until it ends, however it ends. Needs no torch."""

import contextlib
import datetime
import json
import os
from pathlib import Path

import filelock

from tenfold.errors import BusyError, StorageError
from tenfold.files import parse_object, storage_errors, write_text

LOCK, OWNER = ".lock", ".owner.json"


class Lock:
    """The lock of one run directory. The operating system lets go of it when its process dies."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._lock = filelock.FileLock(folder / LOCK)

    def acquire(self, since: str) -> None:
        """Take the lock at once or not at all, and write down who has it. Raises `BusyError` that names the owner."""
        self._take()
        write_text(self.folder / OWNER, json.dumps({"pid": os.getpid(), "since": since}) + "\n")

    def release(self) -> None:
        """Let other processes have it."""
        (self.folder / OWNER).unlink(missing_ok=True)
        self._lock.release()

    def check(self) -> None:
        """Raise `BusyError` where another process has it now."""
        self._take()
        self._lock.release()

    def _take(self) -> None:
        try:
            with storage_errors(self.folder):
                self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise BusyError(f"{self.folder} is in use by {self._owner()}: wait for it or stop it") from None

    def _owner(self) -> str:
        try:
            owner = parse_object((self.folder / OWNER).read_bytes())
            return f"process {owner['pid']} since {owner['since']}"
        except (OSError, ValueError, KeyError):
            return "another process"


def check_idle(folder: Path) -> None:
    """Raise `BusyError` where another process has the lock of this run directory, if it is one."""
    if (folder / LOCK).is_file():
        with contextlib.suppress(StorageError):  # of a folder that cannot be written to, nobody has the lock
            Lock(folder).check()


def now() -> str:
    """The time in UTC to the second, as ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
