"""Files that are whole or not there: every write goes to a temporary name, is fsynced, and is renamed.

Open to every package, as `errors` is.
"""

import codecs
import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tenfold.errors import StorageError, UsageError

TEMPORARY_SUFFIX = ".partial"
OWN_NOTE, ALL_OWN = ".tenfold", "*"
"""A note in each folder that tenfold makes or draws into: what in it is never read as data, a JSON string a line, or
`*` for all of it; nothing where tenfold made the folder only. `tenfold.data.ignored` reads it."""
_STORAGE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO}


_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16's, with which it begins
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a missing permission into a `StorageError` that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _STORAGE_ERRORS:
            raise
        raise StorageError(f"cannot write {path}: {error.strerror}; nothing there was changed") from error


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file that becomes `path` when the block ends well, and vanishes when it does not.

    The temporary file lies in the same folder, so that the rename is atomic; the folder is fsynced too, so that the
    rename survives a power cut. Raises `StorageError`.
    """
    with storage_errors(path):
        if path.exists() and not path.is_file():
            raise StorageError(f"cannot write {path}: it is there and is not a file")
        make_folder(path.parent)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY_SUFFIX)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(OSError):  # some file systems have no modes
                temporary.chmod(0o666 & ~umask())
            temporary.replace(path)
            _fsync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each with a note that tenfold made it. Raises `StorageError`."""
    with storage_errors(folder):
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        if not missing or ALL_OWN.encode() in _note_lines(missing[-1].parent):
            return
    for path in missing:
        _add_to_note(path, "")


def note_own(path: Path) -> None:
    """Note beside `path` that tenfold made it, so that it is never read as data. Raises `StorageError`."""
    _add_to_note(path.parent, json.dumps(path.name))


def note_all_own(folder: Path) -> None:
    """Note in `folder` that all of it is tenfold's, now and later. Raises `StorageError`."""
    _add_to_note(folder, ALL_OWN)


def _add_to_note(folder: Path, line: str) -> None:
    note = folder / OWN_NOTE
    with storage_errors(note):
        before = _note_lines(folder)
        if before and (not line or line.encode() in before):
            return
        head = "" if before else "# made by tenfold: what is named here is never read as data\n"
        with note.open("ab") as file:
            file.write(f"{head}{line}\n".encode())  # in one piece: other processes add lines, too


def _note_lines(folder: Path) -> list[bytes]:
    note = folder / OWN_NOTE
    return note.read_bytes().splitlines() if note.is_file() else []


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically. Raises `StorageError`."""
    with atomic_write(path) as file:
        file.write(content)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 `content` to `path` atomically. Raises `StorageError`."""
    write_bytes(path, content.encode())


def format_object(value: dict[str, Any]) -> str:
    """A JSON object as text, indented, with a final newline."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a path may hold bytes that are no text
        text = json.dumps(value, indent=2)
    return text + "\n"


def byte_order_mark(head: bytes) -> tuple[bytes, str]:
    """The mark that a text begins with and the encoding it stands for; no bytes and UTF-8 where there is none.

    Editors on Windows write marks, and PowerShell redirects to UTF-16.
    """
    return next((mark for mark in _MARKS if head.startswith(mark[0])), (b"", "utf-8"))


def to_utf8(content: bytes) -> bytes:
    """Text that a user wrote, without its byte order mark, as UTF-8. Raises `ValueError` where it is no such text."""
    mark, encoding = byte_order_mark(content)
    rest = content.removeprefix(mark)
    return rest if encoding == "utf-8" else rest.decode(encoding).encode()


def expand_home(path: str) -> str:
    """A path whose leading `~` or `~user` is written out. As in a shell, `~user` stays where there is no such user.

    Raises `UsageError` where the user has no home directory.
    """
    expanded = os.path.expanduser(path)  # noqa: PTH111 (Path would lose a trailing slash, and "./")
    if expanded == path and (path == "~" or path.startswith(("~/", f"~{os.sep}"))):
        raise UsageError(f"{path}: you have no home directory (HOME is not set): write the path out")
    return expanded


def parse_object(content: bytes) -> dict[str, Any]:
    """Parse a JSON object strictly. Raises `ValueError` for anything else: NaN, too deep a nesting, another type."""
    try:
        value = json.loads(to_utf8(content), parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def remove_temporaries(folder: Path) -> None:
    """Delete what killed processes left half-written in `folder` and below. The caller owns the folder."""
    for path in folder.rglob(f".*{TEMPORARY_SUFFIX}"):
        path.unlink(missing_ok=True)


def is_unused(folder: Path) -> bool:
    """Whether a folder holds nothing, but for what processes leave that are killed at once: locks, and temporaries."""
    return all(path.name.startswith(".") for path in folder.iterdir())


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def umask() -> int:
    """The process's umask, which can be read only by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _fsync_folder(folder: Path) -> None:
    if os.name != "posix":  # Windows cannot open folders, and journals its renames
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
