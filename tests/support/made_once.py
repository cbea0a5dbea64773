"""What several of pytest's processes need and takes long to make."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def made_once(folders: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A copy, of this process's own, of a folder that `make` fills in the first process that asks for it."""
    own = folders.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / f"shared-{name}"
    with FileLock(f"{shared}.lock"):
        if not shared.exists():
            made = folders.mktemp(name) / name
            make(made)
            made.rename(shared)  # one that was cut short is made again
    return Path(shutil.copytree(shared, folders.mktemp(name) / name))
