"""The file of `predict --out`: predictions are appended in the order of the inputs, so its lines say what is done."""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import filelock

from tenfold.console import Advance, log_info, printable
from tenfold.errors import BusyError, DataError, StorageError, Terminated, UsageError
from tenfold.files import make_folder, parse_object, storage_errors, write_text
from tenfold.serving.inputs import Input
from tenfold.serving.output_formats import OutputFormat
from tenfold.serving.predict import PredictionResult


class ResumableWriter:
    """The file of answers, appended to, and beside it, until all is done, a note of what was asked.

    Open it with `with`. Raises `UsageError` where the file is there and is not the unfinished file of this request,
    `BusyError` where another process writes it, `StorageError`.
    """

    def __init__(self, path: Path, request: Mapping[str, Any]):
        self.path, self.request = path, dict(request)
        self.note = path.with_name(f"{path.name}.unfinished")
        self._lock = filelock.FileLock(path.with_name(f".{path.name}.lock"))

    def __enter__(self) -> "ResumableWriter":
        with storage_errors(self.path), contextlib.ExitStack() as stack:
            make_folder(self.path.parent)
            try:
                self._lock.acquire(timeout=0)
            except filelock.Timeout:
                raise BusyError(f"{self.path} is being written by another process") from None
            stack.callback(self._release)
            self._start_or_resume()
            self._file = self.path.open("ab+", buffering=0)
            stack.callback(self._file.close)
            self._cut_torn_line()
            self._held = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()
        if kind in (KeyboardInterrupt, Terminated):
            log_info(f"stopped; the same command resumes {self.path}")

    def _release(self) -> None:
        with contextlib.suppress(PermissionError):  # Windows unlinks nothing that is open
            Path(self._lock.lock_file).unlink(missing_ok=True)  # first, or it might be one that another took meanwhile
        self._lock.release()

    def _start_or_resume(self) -> None:
        if not self.note.is_file():
            if os.path.lexists(self.path):
                raise UsageError(f"{self.path} exists: choose another --out")
            write_text(self.note, json.dumps(self.request) + "\n")
            return
        try:
            earlier = parse_object(self.note.read_bytes())
        except ValueError as error:
            raise UsageError(f"{self.note} is not understood ({error}): choose another --out") from error
        for name, value in self.request.items():
            if earlier.get(name) != value:
                how = "repeat the same options, or choose another --out"
                raise UsageError(f"{self.path} was started with another {name}: {how}")

    def _cut_torn_line(self) -> None:
        """Drop what a killed process wrote of a line."""
        end = self._file.seek(0, os.SEEK_END)
        while end:
            begin = max(0, end - 2**16)
            self._file.seek(begin)
            newline = self._file.read(end - begin).rfind(b"\n")
            if newline >= 0:
                self._file.truncate(begin + newline + 1)
                return
            end = begin
        self._file.truncate(0)

    def lines(self) -> Iterator[str]:
        """The lines that are there, without their ends; damage in one shows as damage of that line."""
        with self.path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            for line in file:
                yield line.removesuffix("\n")

    def clear(self) -> None:
        """Drop all lines."""
        self._file.truncate(0)

    def append(self, lines: Iterable[str]) -> None:
        """Write lines so that they survive a power cut. Raises `StorageError`."""
        content = memoryview("".join(f"{line}\n" for line in lines).encode())
        try:
            while content:
                content = content[self._file.write(content) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StorageError(
                f"cannot write {self.path}: {error.strerror}; the same command resumes when that is fixed"
            ) from error

    def finish(self) -> None:
        """Mark the file as complete; a file without any answers is removed."""
        if not self.path.stat().st_size:
            self.path.unlink()
        self.note.unlink()


@dataclass
class Count:
    """Inputs so far: all, and those that could not be read."""

    inputs: int = 0
    bad: int = 0


def skip_done(journal: ResumableWriter, form: OutputFormat, inputs: Iterator[Input]) -> Count:
    """Take from `inputs` those that the journal has answers of. Raises `UsageError` where they are others by now."""
    lines, count = journal.lines(), Count()
    if form.header is not None and next(lines, form.header) != form.header:
        raise UsageError(f"{journal.path} begins with another header: choose another --out")
    for line in lines:
        item = next(inputs, None)
        try:
            path, bad = form.read(line)
        except ValueError as error:
            raise DataError(f"{journal.path}: line {line[:40]!r} is damaged ({error}): choose another --out") from error
        if item is None or path not in (item.name, printable(item.name)):
            raise UsageError(
                f"{journal.path} was started with other inputs: {printable(path)} stands where now comes "
                f"{'nothing' if item is None else printable(item.name)}; choose another --out"
            )
        count.inputs, count.bad = count.inputs + 1, count.bad + bad
    if count.inputs == 0:
        journal.clear()  # a header comes with the first answers
    return count


def write_all(
    batches: Iterable[list[PredictionResult]],
    form: OutputFormat,
    write: Callable[[list[str]], None],
    count: Count,
    advance: Advance,
) -> None:
    """Write answers batch by batch, name what could not be read, and count both in `count`."""
    for answers in batches:
        header = [form.header] if form.header is not None and count.inputs == 0 else []
        write([*header, *map(form.write, answers)])
        bad = [answer for answer in answers if answer.error is not None]
        for answer in bad:
            log_info(f"{answer.path}: {answer.error}")
        count.inputs, count.bad = count.inputs + len(answers), count.bad + len(bad)
        advance(len(answers))
