"""The run directory: what a run leaves behind, written so that nothing good is lost.

Every file is whole or absent (`tenfold.files`). `manifest.json` is written last and holds the SHA-256 of every other
file but the checkpoints, which vouch for themselves: that it exists means that training ended. No pickle, ever.
"""

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Self

from torch import nn

from tenfold.console import log_info
from tenfold.data.resize import with_current_resize
from tenfold.errors import BusyError, ModelError, StorageError, UsageError, one_line
from tenfold.files import (
    TEMPORARY_SUFFIX,
    format_object,
    make_folder,
    note_all_own,
    parse_object,
    remove_temporaries,
    sha256,
    storage_errors,
    umask,
    write_bytes,
    write_text,
)
from tenfold.training.aliases import target_error_in
from tenfold.training.checkpoint import Checkpoint, list_checkpoints
from tenfold.training.device import DeviceConfig
from tenfold.training.lock import Lock, now
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

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
STOPPED = "stopped_at_epoch"
"""Key of env.json: where a callback ended training early."""
LOGS = "logs"
"""Folder in a run directory that callbacks write to; the manifest does not cover it."""
TARGET_ERROR = 0.01
"""The share of wrong answers that a threshold is to keep, unless the user says otherwise."""
LEAST_TARGET_ERROR, MOST_TARGET_ERROR = 0.001, 0.5
_KEEP_CHECKPOINTS = 2


@dataclass(frozen=True)
class Manifest:
    """SHA-256 by file name; `before` has those of files that a process was about to replace when it was killed."""

    files: dict[str, str]
    before: dict[str, str]

    def matches(self, name: str, digest: str) -> bool:
        """Whether the file may have that digest."""
        return name in self.files and digest in (self.files[name], self.before.get(name))


class Run:
    """One run directory. Open it, read it; `lock()` it before writing."""

    def __init__(self, path: Path):
        self.path = path
        self._lock: Lock | None = None

    # --- making, finding, owning ---

    @classmethod
    def create(cls, path: Path, recipe: Recipe, env: dict[str, Any]) -> "Run":
        """Make and lock a new run directory. Raises `UsageError` where `path` exists, `StorageError`."""
        check_new(path)
        make_folder(path.parent)
        with storage_errors(path):
            draft = cls(Path(tempfile.mkdtemp(dir=path.parent, prefix=".", suffix=TEMPORARY_SUFFIX)))
        try:
            note_all_own(draft.path)
            draft.write_json("env.json", env)
            write_text(draft.path / "recipe.json", recipe.to_json())
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
            return Recipe.from_json((self.path / "recipe.json").read_bytes(), str(self.path / "recipe.json"))
        except (OSError, UsageError) as error:
            raise ModelError(str(error)) from error

    # --- checkpoints ---

    def save_checkpoint(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint and delete all but the newest few. Raises `StorageError`; older ones then stay."""
        path = checkpoint.write(self.path / "checkpoints")
        self.keep_checkpoints(_KEEP_CHECKPOINTS)
        return path

    def checkpoints(self) -> list[Path]:
        """All checkpoint files, the newest first, none of them checked."""
        return list_checkpoints(self.path / "checkpoints")

    def keep_checkpoints(self, count: int) -> None:
        """Delete all but the newest `count`."""
        for path in self.checkpoints()[count:]:
            path.unlink(missing_ok=True)

    def load_checkpoint(self) -> Checkpoint | None:
        """Load the newest sound checkpoint, naming and removing damaged ones; None where none was ever written.

        Raises `ModelError` where there are some and all are damaged: a silent restart would throw work away.
        """
        paths = self.checkpoints()
        for number, path in enumerate(paths):
            checkpoint = Checkpoint.read(path)
            if checkpoint:
                for damaged in paths[:number]:  # else they would count among the newest, and sound ones go for them
                    damaged.unlink()
                return checkpoint
            log_info(f"{path} is damaged and skipped")
        if paths:
            raise ModelError(f"{self.path / 'checkpoints'}: every checkpoint is damaged; remove the folder to restart")
        return None

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
        """Write the manifest over everything that is here now; checkpoints vouch for themselves."""
        files = [path for path in sorted(self.path.rglob("*")) if path.is_file() and not self._is_private(path)]
        self._write_manifest({path.relative_to(self.path).as_posix(): sha256(path) for path in files})

    def rewrite_in_manifest(self, contents: Mapping[str, str | bytes]) -> None:
        """Write files and take them into the manifest; killed at any moment, it leaves each file sound.

        For that, a file that was there is vouched for as it was and as it will be until all are written.
        """
        manifest = self._manifest()
        encoded = {name: text.encode() if isinstance(text, str) else text for name, text in contents.items()}
        new = {name: hashlib.sha256(content).hexdigest() for name, content in encoded.items()}
        found = {name: sha256(self.path / name) for name in new if (self.path / name).is_file()}
        there = {name: digest for name, digest in found.items() if manifest.matches(name, digest)}
        before = manifest.before | there
        # of a damaged or missing file, too: as soon as it is replaced it is sound
        self._write_manifest(manifest.files | {name: new[name] for name in new if name in manifest.files}, before)
        for name, content in encoded.items():
            write_bytes(self.path / name, content)
        self._write_manifest(manifest.files | new, {name: digest for name, digest in before.items() if name not in new})

    def _write_manifest(self, digests: dict[str, str], before: dict[str, str] | None = None) -> None:
        manifest = {"format": FORMAT_VERSION, "files": dict(sorted(digests.items()))}
        self.write_json(MANIFEST, manifest | ({"before": before} if before else {}))

    def digest(self, name: str) -> str | None:
        """What the manifest says a file's SHA-256 is, or None where it does not speak of it. Raises `ModelError`."""
        return self._manifest().files.get(name)

    def _manifest(self) -> Manifest:
        """Read the manifest. Raises `ModelError` where it is missing, damaged or of another format."""
        if not self.trained:
            raise ModelError(
                f"{self.path} has not finished training: resume it with tenfold train --resume --out {self.path}"
            )
        manifest = self.read_json(MANIFEST)
        if manifest.get("format") != FORMAT_VERSION or not isinstance(manifest.get("files"), dict):
            raise ModelError(f"{self.path / MANIFEST}: format {manifest.get('format')!r} is unknown to this version")
        before = manifest.get("before")
        return Manifest(manifest["files"], before if isinstance(before, dict) else {})

    def _is_private(self, path: Path) -> bool:
        relative = path.relative_to(self.path)
        return relative.name.startswith(".") or relative.parts[0] in (MANIFEST, "checkpoints", LOGS)

    def verify(self, *names: str) -> None:
        """Compare files (all without `names`) with the manifest. Raises `ModelError` that names the first wrong one."""
        manifest = self._manifest()
        for name in names or manifest.files:
            path = self.path / name
            if not path.is_file():
                raise ModelError(f"{path} is missing")
            if not manifest.matches(name, sha256(path)):
                raise ModelError(f"{path} is damaged: it is not what the manifest says was written")

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
        return self.trained and "results.json" in self._manifest().files


def check_target_error(value: float | None) -> float | None:
    """The share of wrong answers that a threshold is to keep, or None. Raises `UsageError` outside of 0.001 to 0.5."""
    if value is None:
        return None
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not (is_number and LEAST_TARGET_ERROR <= value <= MOST_TARGET_ERROR):  # nan is not, either
        bounds = f"from {LEAST_TARGET_ERROR} to {MOST_TARGET_ERROR} (0.01 is 1 %)"
        raise UsageError(f"target_error must be a number {bounds}, not {value!r}")
    return float(value)


def target_error_of(run: Run) -> float:
    """The value given last, when the run was scored or when its training was started; else 1 %."""
    calibration = run.read_json("results.json").get("calibration") if run.scored else None
    asked = target_error_in(calibration or {}) or run.env.get("target_error")
    return float(asked or TARGET_ERROR)


def check_new(path: Path) -> None:
    """Raise `UsageError` where a new run directory cannot be named `path`."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UsageError(f"{str(path)!r} is no text: choose another --out") from None
    if path.exists():
        raise UsageError(f"{path} exists: choose another --out, or resume it: --resume --out {path}")


def find_unfinished(folder: Path) -> Run:
    """Return the unfinished run below `folder` that was touched last. Raises `ModelError` where there is none."""
    paths = [path.parent for path in folder.glob("[!.]*/recipe.json")]
    for path in sorted(paths, key=_last_touched, reverse=True):
        run = Run(path)
        try:
            Lock(path).check()
            if not run.scored:
                return run
        except (BusyError, ModelError, StorageError) as error:
            log_info(f"passed over: {error}")
    raise ModelError(f"nothing to resume: no unfinished run in {folder}")


def _last_touched(path: Path) -> float:
    return max(entry.stat().st_mtime for entry in (path, *path.glob("checkpoints")))
