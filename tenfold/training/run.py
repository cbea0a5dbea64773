"""The run directory: what a run leaves behind, written so that nothing good is lost.

Every file is whole or absent (`tenfold.files`); the manifest is written last. No pickle, ever.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from tenfold.data.resize import with_current_resize
from tenfold.errors import ModelError, UsageError, one_line
from tenfold.files import (
    TEMPORARY_SUFFIX,
    format_object,
    make_folder,
    note_all_own,
    parse_object,
    remove_temporaries,
    storage_errors,
    umask,
    write_bytes,
    write_text,
)
from tenfold.training.checkpoint import Checkpoint, list_checkpoints, load_newest
from tenfold.training.device import DeviceConfig, select_device
from tenfold.training.fitting import device_for
from tenfold.training.lock import Lock, check_idle, now
from tenfold.training.manifest import MANIFEST, Manifest, replace_files
from tenfold.training.precision import DTYPES
from tenfold.training.recipe import Recipe
from tenfold.training.weights import (
    DESCRIPTION,
    WEIGHTS,
    Model,
    ModelDescription,
    read_description,
    read_model,
    write_model,
)

STOPPED = "stopped_at_epoch"
"""Key of env.json: where a callback ended training early."""
LEFT_OUT = "left_out"
"""Key of env.json: what is not to follow training, "report" and "export"."""
_KEEP_CHECKPOINTS = 2


class Run:
    """One run directory. Open it, read it; `lock()` it before writing."""

    def __init__(self, path: Path):
        self.path = path
        self._lock: Lock | None = None

    # --- making, finding, owning ---

    @classmethod
    def create(cls, path: Path, recipe: Recipe, env: dict[str, Any], files: Mapping[str, bytes] | None = None) -> "Run":
        """Make and lock a new run directory, with more `files` in it by name.

        Raises `UsageError` where `path` exists, `BusyError` where it is a run in use, `StorageError`.
        """
        check_new(path)
        make_folder(path.parent)
        with storage_errors(path):
            draft = cls(Path(tempfile.mkdtemp(dir=path.parent, prefix=".", suffix=TEMPORARY_SUFFIX)))
        try:
            note_all_own(draft.path)
            draft.write_json("env.json", env)
            write_text(draft.path / "recipe.json", recipe.to_json())
            for name, content in (files or {}).items():
                write_bytes(draft.path / name, content)
            with storage_errors(path):
                draft.path.chmod(0o777 & ~umask())
                try:
                    draft.path.rename(path)  # a run directory is never seen without its recipe
                except OSError:
                    check_new(path)  # another process may have made it meanwhile
                    raise
        finally:
            shutil.rmtree(draft.path, ignore_errors=True)  # there only where something failed
        run = cls(path)
        run.lock()
        return run

    @classmethod
    def open(cls, path: Path) -> "Run":
        """Open an existing run directory. Raises `ModelError` where there is none."""
        if not (path / "recipe.json").is_file():
            raise ModelError(f"{path} is not a run directory: it has no recipe.json")
        return cls(path)

    def lock(self) -> None:
        """Become the only process that writes here, until it ends. Raises `BusyError` that names the other one."""
        lock = Lock(self.path)
        lock.acquire(now())
        self._lock = lock
        remove_temporaries(self.path)

    def unlock(self) -> None:
        """Let other processes write here."""
        if self._lock:
            self._lock.release()
            self._lock = None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Own the directory while the block runs, and after it where it was owned before. Raises as `lock` does."""
        if self._lock:
            yield
            return
        self.lock()
        try:
            yield
        finally:
            self.unlock()

    @contextlib.contextmanager
    def unlocked_at_end(self) -> Iterator[None]:
        """Let go of the directory when the block ends or raises, unless another object took it over meanwhile."""
        try:
            yield
        finally:
            self.unlock()

    @classmethod
    def take_over(cls, other: "Run") -> Self:
        """The same run, with the lock if `other` owns it."""
        run = cls(other.path)
        run._lock, other._lock = other._lock, None
        return run

    # --- small files ---

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Write `value` as indented JSON."""
        write_text(self.path / name, format_object(value))

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON object. Raises `ModelError` where it is missing or damaged."""
        try:
            return parse_object((self.path / name).read_bytes())
        except (OSError, ValueError) as error:
            raise ModelError(f"{self.path / name}: cannot be read ({one_line(error)})") from error

    @property
    def env(self) -> dict[str, Any]:
        """What the run is made with: at least seed, data and device. Raises `ModelError` where that is damaged."""
        env = self.read_json("env.json")
        for key, kind in (("seed", int), ("data", str), ("device", str), ("dtype", str)):
            if not isinstance(env.get(key), kind):
                raise ModelError(f"{self.path / 'env.json'}: {key} is missing or of the wrong type")
        folder = env.get("folder")
        return env | {"folder": with_current_resize(folder)} if isinstance(folder, dict) else env

    @property
    def recipe(self) -> Recipe:
        """The run's recipe."""
        try:
            path = self.path / "recipe.json"
            return Recipe.from_json(path.read_bytes(), str(path), trained=True)
        except (OSError, UsageError) as error:
            raise ModelError(str(error)) from error

    # --- checkpoints ---

    def save_checkpoint(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint and delete all but the newest few. Raises `StorageError`; older ones then stay."""
        path = checkpoint.write(self._checkpoints)
        self.keep_checkpoints(_KEEP_CHECKPOINTS)
        return path

    def checkpoints(self) -> list[Path]:
        """All checkpoint files, the newest first, none of them checked."""
        return list_checkpoints(self._checkpoints)

    def keep_checkpoints(self, count: int) -> None:
        """Delete all but the newest `count`."""
        for path in self.checkpoints()[count:]:
            path.unlink(missing_ok=True)

    def load_checkpoint(self) -> Checkpoint | None:
        """Load the newest sound checkpoint, see `checkpoint.load_newest`."""
        return load_newest(self._checkpoints)

    @property
    def _checkpoints(self) -> Path:
        return self.path / "checkpoints"

    # --- the model ---

    def save_model(self, network: nn.Module, description: dict[str, Any]) -> None:
        """Write weights and buffers, and what `describe_model` says of them."""
        write_model(self.path, network, description)

    def load_model(self, device_config: DeviceConfig) -> Model:
        """Rebuild the trained network on that device, checked against the manifest. Raises `ModelError`."""
        self.verify(WEIGHTS, DESCRIPTION)
        return read_model(self.path, device_config)

    @property
    def description(self) -> ModelDescription:
        """What the trained network takes and gives, checked against the manifest. Raises `ModelError`."""
        self.verify(DESCRIPTION)
        return read_description(self.path)

    # --- the manifest ---

    def write_manifest(self) -> None:
        """Write the manifest over everything that is here now."""
        Manifest.of(self.path).write(self.path)

    def rewrite_in_manifest(self, contents: Mapping[str, str | bytes]) -> None:
        """Write files and take them into the manifest; killed at any moment, it leaves each file sound."""
        replace_files(self.path, contents)

    def digest(self, name: str) -> str | None:
        """What the manifest says a file's SHA-256 is, or None where it does not speak of it. Raises `ModelError`."""
        return Manifest.read(self.path).files.get(name)

    def verify(self, *names: str) -> None:
        """Compare files (all without `names`) with the manifest. Raises `ModelError` that names the first wrong one."""
        manifest = Manifest.read(self.path)
        manifest.verify(self.path, names or manifest.files)

    def require_scores(self) -> dict[str, Any]:
        """Read results.json. Raises `ModelError` where the run has none yet."""
        if not self.scored:
            raise ModelError(f"{self.path} has no scores yet: finish it with tenfold train --resume --out {self.path}")
        return self.read_json("results.json")

    @property
    def trained(self) -> bool:
        """Whether training ended, so that the model can be used."""
        return (self.path / MANIFEST).is_file()

    @property
    def scored(self) -> bool:
        """Whether the scores were written too: nothing is left to resume."""
        return self.trained and "results.json" in Manifest.read(self.path).files


def check_new(path: Path) -> None:
    """Raise `UsageError` where a new run directory cannot be named `path`, `BusyError` where a run is in use there."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UsageError(f"{str(path)!r} is no text: choose another --out") from None
    if path.exists():
        check_idle(path)
        raise UsageError(f"{path} exists: choose another --out, or resume it: --resume --out {path}")


def device_of(run: Run, device: str = "auto") -> DeviceConfig:
    """As `device_for` for the run's recipe, in the number format that it was started in, on a device of that kind."""
    chosen, env = device_for(run.recipe, device), run.env
    started_here = chosen.device.type == torch.device(env["device"]).type and env["dtype"] in DTYPES
    if not started_here or chosen.dtype_name == env["dtype"]:
        return chosen
    return select_device(device, DTYPES[env["dtype"]], "as when the run was started")
