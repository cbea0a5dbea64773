"""A training run's state at the end of a step, and the file that holds it.

A file carries the beginning of its own SHA-256 in its name, so a single rename makes it valid, and a truncated or
flipped one is known without asking another file.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from tenfold.console import log_info
from tenfold.errors import ModelError
from tenfold.files import write_bytes
from tenfold.training.aliases import rename_tensors

_NAME = re.compile(r"step-(\d{8})-([0-9a-f]{16})\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and JSON that belongs to them, as of the end of `step` training steps."""

    step: int
    tensors: dict[str, Tensor]
    notes: dict[str, Any]

    def write(self, folder: Path) -> Path:
        """Write it into `folder`. Raises `StorageError`."""
        notes = {"step": self.step, **self.notes}
        content = safetensors.torch.save(self.tensors, {"tenfold": json.dumps(notes)})
        path = folder / f"step-{self.step:08d}-{_digest(content)}.safetensors"
        write_bytes(path, content)
        return path

    @classmethod
    def read(cls, path: Path) -> "Checkpoint | None":
        """Read a checkpoint file; None where it is damaged."""
        content = path.read_bytes()
        match = _NAME.fullmatch(path.name)
        if not match or _digest(content) != match[2]:
            return None
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        notes = json.loads(header["__metadata__"]["tenfold"])
        return cls(notes.pop("step"), rename_tensors(safetensors.torch.load(content)), notes)


def list_checkpoints(folder: Path) -> list[Path]:
    """All checkpoint files, the newest first, none of them checked."""
    paths = folder.glob("*.safetensors")
    return sorted((path for path in paths if _NAME.fullmatch(path.name) and path.is_file()), reverse=True)


def load_newest(folder: Path) -> Checkpoint | None:
    """Load the newest sound checkpoint, naming and removing damaged ones; None where none was ever written.

    Raises `ModelError` where there are some and all are damaged: a silent restart would throw work away.
    """
    paths = list_checkpoints(folder)
    for number, path in enumerate(paths):
        checkpoint = Checkpoint.read(path)
        if checkpoint:
            for damaged in paths[:number]:  # else they would count among the newest, and sound ones go for them
                damaged.unlink()
            return checkpoint
        log_info(f"{path} is damaged and skipped")
    if paths:
        raise ModelError(f"{folder}: every checkpoint is damaged; remove the folder to restart")
    return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
