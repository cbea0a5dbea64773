"""Atomic files: whole or not there, whatever goes wrong, and nothing left beside them."""

import errno
import os
import stat
from pathlib import Path
from typing import NoReturn

import pytest

from tenfold.errors import StorageError
from tenfold.files import (
    TEMPORARY_SUFFIX,
    atomic_write,
    parse_object,
    remove_temporaries,
    sha256,
    write_bytes,
    write_text,
)


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_a_file_appears_with_its_content_and_is_readable_by_all(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "file.txt", "grün\n")
    path = tmp_path / "new" / "file.txt"
    assert path.read_bytes() == b"gr\xc3\xbcn\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert everything(tmp_path) == {"new", "new/file.txt", "new/.tenfold"}


def test_until_the_block_ends_the_old_file_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()], ids=["exception", "ctrl-c"])
def test_a_block_that_fails_changes_nothing(tmp_path: Path, error: BaseException) -> None:
    """Without `finally: temporary.unlink(…)`: a .file.….partial stays behind."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(type(error)), atomic_write(path) as file:
        file.write(b"half of the n")
        raise error
    assert path.read_bytes() == b"old"
    assert everything(tmp_path) == {"file"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_names_the_file_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """Without `finally: temporary.unlink(…)`: a .file.….partial stays behind; without `storage_errors`: OSError."""
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(StorageError, match=f"{path}: {os.strerror(number)}"):
        write_bytes(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert everything(tmp_path) == {"file"}


def test_errors_that_are_not_of_storage_pass_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a file").write_bytes(b"")
    with pytest.raises(OSError) as caught:
        write_bytes(tmp_path / "a file" / "below it", b"")
    assert caught.value.errno in (errno.ENOTDIR, errno.EEXIST)


def test_content_reaches_the_disk_before_its_name_and_the_name_before_we_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `os.fsync(file…)`, or without `_fsync_folder`: that call is missing from the list."""
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(handle: int) -> None:
        calls.append("sync folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else f"sync {os.fstat(handle).st_size} B")
        fsync(handle)

    def note_replace(source: object, target: object) -> None:
        calls.append("rename")
        replace(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    write_bytes(tmp_path / "file", b"123")
    assert calls == ["sync 3 B", "rename", "sync folder"]


def test_only_temporaries_are_removed(tmp_path: Path) -> None:
    kept = ["file", f"file{TEMPORARY_SUFFIX}", ".hidden", "below/file"]
    gone = [f".file.abc{TEMPORARY_SUFFIX}", f"below/.file.abc{TEMPORARY_SUFFIX}"]
    (tmp_path / "below").mkdir()
    for name in kept + gone:
        (tmp_path / name).write_bytes(b"")
    remove_temporaries(tmp_path)
    assert everything(tmp_path) == {*kept, "below"}


def test_sha256_of_the_standards_example(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b"[1]", "not a JSON object"),
        (b"\xff", "decode"),
        (b"", "Expecting value"),
    ],
)
def test_what_is_no_json_object_is_a_value_error(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_object(content)


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    """Without the check: a device node became a picture."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StorageError, match="is there and is not a file"):
        write_bytes(tmp_path / "pipe", b"x")
    assert (tmp_path / "pipe").is_fifo()
