"""Images → answers: decoded in threads, answered in batches, written as a table, JSON Lines or CSV.

All is streamed: neither inputs nor answers are ever held whole. What is written by `--out` can be gone on with: answers
are appended in the order of the inputs, so that the lines that are there say what is done.
"""

import contextlib
import csv
import io
import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import filelock
import numpy as np

from tenfold.console import Advance, log_info, percent, printable
from tenfold.errors import BusyError, DataError, ImageError, StorageError, Terminated, UsageError
from tenfold.files import make_folder, parse_object, storage_errors, write_text
from tenfold.machine import cores
from tenfold.serving.inputs import Input
from tenfold.serving.model_file import ModelMetadata
from tenfold.serving.runtime import Predictor

BATCH_SIZE = 128
_AHEAD = 4 * BATCH_SIZE
"""Images that may wait decoded for their turn."""
REJECTED = "none of these"
_LOOSER = (0.05, 0.1, 0.2, 0.5)
"""Target errors that are suggested where a smaller one cannot be met."""


@dataclass(frozen=True)
class PredictionResult:
    """The prediction for one image.

    predictions: class names with probabilities, the best first; none where there is an `error`. rejected: whether the
    best one is less probable than the model's threshold, where that was asked for.
    """

    path: str
    predictions: tuple[tuple[str, float], ...] = ()
    rejected: bool = False
    error: str | None = None

    @property
    def label(self) -> str | None:
        """The most probable class; None where there is an error."""
        return self.predictions[0][0] if self.predictions else None

    @property
    def probability(self) -> float | None:
        """The probability of `label`."""
        return self.predictions[0][1] if self.predictions else None


def answer(
    classifier: Predictor, inputs: Iterable[Input], top: int = 1, reject: bool = False
) -> Iterator[list[PredictionResult]]:
    """Answer inputs batch by batch, in their order. Raises `UsageError` at once for `reject` without a threshold."""
    return _answer_batches(classifier, inputs, top, check_threshold(classifier, reject))


def check_threshold(classifier: Predictor, reject: bool) -> float | None:
    """The threshold to reject by, None for not to reject. Raises `UsageError` where the model has none."""
    threshold = classifier.about.threshold
    if reject and threshold is None:
        raise UsageError(f"this model has no threshold: {_why_no_threshold(classifier.about)}; or leave --reject out")
    return threshold if reject else None


def _why_no_threshold(about: ModelMetadata) -> str:
    """What is missing, and how to get it."""
    found = about.calibration
    if found is None:
        return "it was trained without validation images (tenfold train --val-size N)"
    error, had = f"{100 * found['target_error']:.3g} %", f"{found['images']:,}"
    if found["images"] >= found["images_needed"]:
        why = f"too many predictions on {had} validation images are wrong for an error of at most {error}"
        return f"{why}{_looser(found)}"
    return (
        f"an error of at most {error} needs at least {found['images_needed']:,} validation images (tenfold train "
        f"--val-size N), and it had {had}{_looser(found)}"
    )


def _looser(found: Mapping[str, Any]) -> str:
    """Which larger target error those validation images can be enough for; nothing where there is none.

    The number needed is that of `evaluation.calibration.images_needed`, in proportion to 1 / log(1 - error).
    """
    wanted = found["target_error"]
    scaled = found["images_needed"] * math.log1p(-wanted)
    fitting = [error for error in _LOOSER if error > wanted and scaled / math.log1p(-error) <= found["images"]]
    return f": tenfold evaluate RUN --target-error {fitting[0]:g} allows more errors" if fitting else ""


def _answer_batches(
    classifier: Predictor, inputs: Iterable[Input], top: int, threshold: float | None
) -> Iterator[list[PredictionResult]]:
    decoded = _decode_ahead(classifier, inputs)
    while batch := list(islice(decoded, BATCH_SIZE)):
        images = [pixels for _, pixels in batch if not isinstance(pixels, ImageError)]
        rows = iter(classifier.predict(np.stack(images)) if images else ())
        yield [
            PredictionResult(name, error=str(pixels))
            if isinstance(pixels, ImageError)
            else to_answer(name, next(rows), classifier.classes, top, threshold)
            for name, pixels in batch
        ]


def to_answer(
    name: str, row: np.ndarray, classes: tuple[str, ...], top: int, threshold: float | None
) -> PredictionResult:
    """The `top` best predictions of a row of K probabilities; `threshold` says where they are rejected."""
    best = np.argsort(-row, kind="stable")[:top]
    predictions = tuple((classes[i], float(row[i])) for i in best)
    return PredictionResult(name, predictions, rejected=threshold is not None and predictions[0][1] < threshold)


def _decode_ahead(classifier: Predictor, inputs: Iterable[Input]) -> Iterator[tuple[str, np.ndarray | ImageError]]:
    """Names and pixels, or what is wrong with them, in order; threads work ahead of the one who asks."""

    def work(item: Input) -> np.ndarray | ImageError:
        try:
            return classifier.decode(item.read())
        except ImageError as error:
            return error

    pool = ThreadPoolExecutor(cores())
    waiting: deque[tuple[str, Future[np.ndarray | ImageError]]] = deque()
    try:
        for item in inputs:
            waiting.append((item.name, pool.submit(work, item)))
            if len(waiting) == _AHEAD:
                name, future = waiting.popleft()
                yield name, future.result()
        while waiting:
            name, future = waiting.popleft()
            yield name, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


# --- how answers are written -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OutputFormat:
    """A way to write answers. header: the first line, or none; write: a line of an answer, without its end.

    read: the path and whether there was an error, from such a line; raises `ValueError`.
    """

    header: str | None
    write: Callable[[PredictionResult], str]
    read: Callable[[str], tuple[str, bool]]


def make_output_format(name: str, classes: tuple[str, ...], top: int) -> OutputFormat:
    """The form of that name: `table`, `json` (JSON Lines) or `csv`, for `top` predictions an answer."""
    top = min(top, len(classes))
    if name == "json":
        return OutputFormat(None, _to_json, _from_json)
    if name == "csv":
        more = [f"{column}_{rank}" for rank in range(2, top + 1) for column in ("label", "probability")]
        header = ["path", "label", "probability", *more, "error"]
        return OutputFormat(_to_csv(header), lambda answer: _to_csv(_cells(answer, top)), _from_csv)
    width = max(len(printable(label)) for label in (*classes, REJECTED, "prediction"))
    titles = [f"{'prediction':{width}}  {'confidence':>10}"] * top
    return OutputFormat("  ".join([*titles, "path"]), lambda answer: _to_row(answer, top, width), _no_reading)


def describe(answer: PredictionResult) -> dict[str, Any]:
    """The prediction for an image that could be read, as plain data."""
    label, probability = answer.predictions[0]
    top = [{"label": label, "probability": probability} for label, probability in answer.predictions]
    return {"label": None if answer.rejected else label, "probability": probability, "top": top}


def _to_json(answer: PredictionResult) -> str:
    fields = {"error": answer.error} if answer.error is not None else describe(answer)
    return json.dumps({"path": answer.path} | fields)  # in ASCII: names may hold anything


def _from_json(line: str) -> tuple[str, bool]:
    fields = parse_object(line.encode())
    if not isinstance(fields.get("path"), str):
        raise ValueError("no path")
    return fields["path"], "error" in fields


def _to_csv(cells: Iterable[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


def _cells(answer: PredictionResult, top: int) -> list[object]:
    if answer.error is not None:
        return [printable(answer.path), *[""] * 2 * top, printable(answer.error)]
    flat = [cell for label, probability in answer.predictions for cell in (printable(label), f"{probability:.6f}")]
    return [printable(answer.path), *([REJECTED, *flat[1:]] if answer.rejected else flat), ""]


def _from_csv(line: str) -> tuple[str, bool]:
    cells = next(csv.reader([line], strict=True), [])
    if len(cells) < 4:
        raise ValueError("too few cells")
    return cells[0], cells[-1] != ""


def _to_row(answer: PredictionResult, top: int, width: int) -> str:
    """A row of the table; unreadable images stand in it too, so that none is missed."""
    predictions = [(printable(label), percent(probability, 2, "%")) for label, probability in answer.predictions]
    if answer.error is not None:
        predictions = [("–", "")] * top
    elif answer.rejected:
        predictions[0] = (REJECTED, predictions[0][1])
    return "  ".join([*(f"{label:{width}}  {share:>10}" for label, share in predictions), printable(answer.path)])


def _no_reading(line: str) -> tuple[str, bool]:
    raise ValueError("a table cannot be resumed")


# --- the file of --out -------------------------------------------------------------------------------------------


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
