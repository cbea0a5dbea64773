"""A run's manifest: the SHA-256 of every file but the checkpoints, which vouch for themselves.

It is written last: that it exists means that training ended. Files are replaced in three steps, so that each of them is
sound wherever the process is killed: the manifest vouches for them as they were and as they will be; they are written;
it vouches for the new ones only.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tenfold.errors import ModelError, one_line
from tenfold.files import format_object, parse_object, sha256, write_bytes, write_text

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
LOGS = "logs"
"""Folder in a run directory that callbacks write to; the manifest does not cover it."""


@dataclass(frozen=True)
class Manifest:
    """SHA-256 by file name; `before` has those of files that are being replaced, or were when a process was killed."""

    files: dict[str, str]
    before: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Path) -> "Manifest":
        """Take the digests of everything that is in a run directory now."""
        paths = (path for path in run.rglob("*") if path.is_file())
        names = (path.relative_to(run) for path in paths)
        return cls({name.as_posix(): sha256(run / name) for name in names if _is_covered(name)})

    @classmethod
    def read(cls, run: Path) -> "Manifest":
        """Read a run's manifest. Raises `ModelError` where it is missing, damaged or of another format."""
        path = run / MANIFEST
        if not path.is_file():
            raise ModelError(f"{run} has not finished training: resume it with tenfold train --resume --out {run}")
        try:
            values = parse_object(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: cannot be read ({one_line(error)})") from error
        if values.get("format") != FORMAT_VERSION or not isinstance(values.get("files"), dict):
            raise ModelError(f"{path}: format {values.get('format')!r} is unknown to this version")
        before = values.get("before")
        return cls(values["files"], before if isinstance(before, dict) else {})

    def write(self, run: Path) -> None:
        """Write it. Raises `StorageError`."""
        values = {"format": FORMAT_VERSION, "files": dict(sorted(self.files.items()))}
        write_text(run / MANIFEST, format_object(values | ({"before": self.before} if self.before else {})))

    def matches(self, name: str, digest: str) -> bool:
        """Whether the file may have that digest."""
        return name in self.files and digest in (self.files[name], self.before.get(name))

    def verify(self, run: Path, names: Iterable[str]) -> None:
        """Compare files with their digests. Raises `ModelError` that names the first wrong one."""
        for name in names:
            path = run / name
            if not path.is_file():
                raise ModelError(f"{path} is missing")
            if not self.matches(name, sha256(path)):
                raise ModelError(f"{path} is damaged: it is not what the manifest says was written")

    def while_replacing(self, new: dict[str, str], found: dict[str, str]) -> "Manifest":
        """The first step. new: digests of the files to come. found: those of the files that they replace.

        A file that is damaged or missing is vouched for as it will be, too: as soon as it is replaced it is sound.
        """
        known = {name: digest for name, digest in new.items() if name in self.files}
        sound = {name: digest for name, digest in found.items() if self.matches(name, digest)}
        return Manifest(self.files | known, self.before | sound)

    def with_replaced(self, new: dict[str, str]) -> "Manifest":
        """The last step."""
        before = {name: digest for name, digest in self.before.items() if name not in new}
        return Manifest(self.files | new, before)


def _is_covered(name: Path) -> bool:
    return not name.name.startswith(".") and name.parts[0] not in (MANIFEST, "checkpoints", LOGS)


def replace_files(run: Path, contents: Mapping[str, str | bytes]) -> None:
    """Write files of a run and take them into its manifest. Raises `ModelError`, `StorageError`."""
    encoded = {name: text.encode() if isinstance(text, str) else text for name, text in contents.items()}
    new = {name: hashlib.sha256(content).hexdigest() for name, content in encoded.items()}
    found = {name: sha256(run / name) for name in new if (run / name).is_file()}
    manifest = Manifest.read(run).while_replacing(new, found)
    manifest.write(run)
    for name, content in encoded.items():
        write_bytes(run / name, content)
    manifest.with_replaced(new).write(run)
