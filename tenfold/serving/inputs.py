"""What the user named → images to answer, one after another, in an order that is the same each time.

Nothing is listed whole: of a million files, a window of names is held at a time. Each folder is read once, wherever
links lead; what in it is no image or never data (`tenfold.data.ignored`) is passed over. What is named itself is taken:
where it is tenfold's own output, all that is in it, too.
"""

import codecs
import contextlib
import fnmatch
import functools
import glob
import heapq
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

from tenfold.data.formats import sniff
from tenfold.data.ignored import is_hidden, is_image, is_output, is_own, own_names
from tenfold.data.image import MOST_BYTES, read_file
from tenfold.errors import DataError, ImageError
from tenfold.files import byte_order_mark

STDIN = "-"
WINDOW = 2**17
_HEAD = 18  # bytes that tell what a file is
_MOST_LINE = 2**16  # bytes of a path on standard input: more than any system allows
_CONTROLS = re.compile(rb"[\x01-\x08\x0b\x0c\x0e-\x1f]")
_NO_LIST = "standard input holds neither an image of a kind that is read here nor paths, one a line or ended by NUL"


class Input(NamedTuple):
    """An image to be answered: what it is called, and what gives its bytes or raises `ImageError`."""

    name: str
    read: Callable[[], bytes]


def find(sources: Iterable[str], stdin: BinaryIO | None = None) -> Iterator[Input]:
    """Images of files, folders, patterns (`*`, `?`, `[…]`, `**`) and, for `-`, of standard input, in this order.

    Standard input holds the bytes of one image, or paths, one a line or each ended by NUL; its first bytes tell which.
    What does not exist is an input too: it fails when it is read. Raises `DataError` for a standard input that is
    neither.
    """
    for source in sources:
        if source == STDIN and stdin is not None:
            yield from _from_stream(stdin)
        else:
            yield from _expand(source)


def _file(path: Path, name: str = "") -> Input:
    return Input(name or str(path), functools.partial(_read, path))


def _read(path: Path) -> bytes:
    if "\0" in str(path):
        raise ImageError("no file has such a name")
    return read_file(path)


def _is_folder(path: Path) -> bool:
    """Whether it is one; False where that may not be looked at, or no file can be called so: `Path.is_dir` raises."""
    return os.path.isdir(path)  # noqa: PTH112


def _unlisted(folder: Path, error: OSError) -> Input:
    """A folder whose names cannot be had: an input that fails."""
    return _unread(str(folder), f"cannot be listed: {error.strerror}")


def _unread(name: str, reason: str) -> Input:
    """An input that fails."""

    def fail() -> NoReturn:
        raise ImageError(reason)

    return Input(name, fail)


# --- files, folders, patterns ------------------------------------------------------------------------------------


def _expand(source: str) -> Iterator[Input]:
    """The images that a path or a pattern stands for; the path itself where there is nothing."""
    path, found = Path(source), False
    if os.path.lexists(source) or not glob.has_magic(source):
        yield from _images(path, source)
        return
    parts = path.relative_to(path.anchor).parts
    first = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    folder, parts = Path(path.anchor, *parts[:first]), parts[first:]
    own = is_own(folder)
    for match in _match(folder, parts, own):
        found = True
        if "**" not in parts:
            yield from _below(match, own)
        elif not _is_folder(match):  # what is in a folder is matched by itself
            yield _file(match)
    if not found:
        yield _file(path, source)


def _match(folder: Path, parts: Sequence[str], own: bool) -> Iterator[Path]:
    """Paths below `folder` that fit the parts of a pattern, sorted; `**` stands for any folders, or none."""
    part, *rest = parts
    if part == "**":
        yield from _match(folder, rest or ["*"], own)
        for path in _names(folder, "*", own):
            if _is_folder(path) and not path.is_symlink():
                yield from _match(path, parts, own)
        return
    for path in _names(folder, part, own) if glob.has_magic(part) else iter([folder / part]):
        if rest and _is_folder(path):
            yield from _match(path, rest, own)
        elif not rest and os.path.lexists(path):
            yield path


def _names(folder: Path, pattern: str, own: bool) -> Iterator[Path]:
    with contextlib.suppress(OSError):  # a pattern finds what it may see, as in a shell
        yield from (path for path in _entries(folder, own, pattern) if own or not _is_output(path))


def _is_output(path: Path) -> bool:
    return _is_folder(path) and is_output(path)  # of most files, one question


def _entries(folder: Path, own: bool, pattern: str = "*") -> Iterator[Path]:
    """What is in a folder and fits the pattern, sorted by name; what begins with a dot only if the pattern asks.

    own: whether to take what tenfold noted as its own, too. The folder is read once for each window of names, so that
    memory does not grow with it. Raises `OSError`.
    """
    fits = re.compile(fnmatch.translate(pattern)).match
    dotted, last = pattern.startswith("."), ""
    left_out = frozenset() if own else own_names(folder)
    while True:
        with os.scandir(folder) as entries:
            names = (entry.name for entry in entries)
            shown = (name for name in names if (name.startswith(".") if dotted else not is_hidden(name)))
            fitting = (name for name in shown if name > last and fits(name) and name not in left_out)
            window = heapq.nsmallest(WINDOW, fitting)
        yield from (folder / name for name in window)
        if len(window) < WINDOW:
            return
        last = window[-1]


def _images(path: Path, name: str) -> Iterator[Input]:
    """What the user named: a file, or the images of a folder, of tenfold's output only where it is nothing else."""
    return _below(path, _is_folder(path) and is_own(path), name)


def _below(path: Path, own: bool, name: str = "") -> Iterator[Input]:
    """A file, or the images of a folder and of all folders in it; own: tenfold's output, too."""
    if not _is_folder(path):
        yield _file(path, name)
        return
    seen: set[tuple[int, int]] = set()
    open_folders = [(path, _enter(path, own, seen))]
    while open_folders:
        folder, entries = open_folders[-1]
        try:
            entry = next(entries, None)
        except OSError as error:
            yield _unlisted(folder, error)
            entry = None
        if entry is None:
            open_folders.pop()
        elif _is_folder(entry):
            if own or not is_output(entry):
                open_folders.append((entry, _enter(entry, own, seen)))
        elif is_image(entry):
            yield _file(entry)


def _enter(folder: Path, own: bool, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """What is in a folder; nothing where it was entered before, by this name or through a link. Raises `OSError`."""
    status = folder.stat()
    identity = status.st_dev, status.st_ino
    if identity not in seen:
        seen.add(identity)
        yield from _entries(folder, own)


# --- standard input ----------------------------------------------------------------------------------------------


def _from_stream(stream: BinaryIO) -> Iterator[Input]:
    head = stream.read(_HEAD)
    if sniff(head):
        content = head + stream.read(MOST_BYTES + 1 - len(head))  # a byte too many is noticed by the decoder
        yield Input(STDIN, lambda: content)
        return
    for entry in _entries_of_list(_as_utf8(head, stream)):
        name = os.fsdecode(entry)
        if name[:1] == name[-1:] and name[0] in "\"'" and not os.path.lexists(name):
            yield _unread(name, "no file has this name: write paths in a list without quotes")
        else:
            yield from _images(Path(name), name)


def _as_utf8(head: bytes, stream: BinaryIO) -> Iterator[bytes]:
    """Chunks of a list whose first bytes were read already, as they come, without its byte order mark."""
    mark, encoding = byte_order_mark(head)
    if not mark and len(head) == _HEAD and not any(head[1::2]) and all(head[::2]):
        encoding = "utf-16-le"  # without a mark: single letters, each ended by NUL, are hardly what is meant
    read: Callable[[int], bytes] = getattr(stream, "read1", stream.read)  # what is there by now, where that is known
    chunks = itertools.chain([head.removeprefix(mark)], iter(lambda: read(_MOST_LINE), b""))
    if encoding == "utf-8":
        yield from chunks
        return
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        for chunk in chunks:
            yield os.fsencode(decoder.decode(chunk))
        decoder.decode(b"", final=True)
    except UnicodeError as error:
        raise DataError(f"standard input begins as {encoding} text, but is not: write the list as UTF-8") from error


def _entries_of_list(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Paths of a list: one a line, or each ended by NUL, as `find -print0` writes them; names may hold line breaks.

    A line's CR and byte order mark (of lists that were joined) and blank lines are left out. Raises `DataError`.
    """
    buffer, separator = b"", b""
    for chunk in itertools.chain(chunks, [None]):
        buffer += chunk or b""
        separator = separator or _separator(buffer, chunk is None)
        if separator:
            *whole, buffer = buffer.split(separator)
            whole += [buffer] if chunk is None else []
            yield from filter(None, (_entry(entry, separator) for entry in whole))
        if len(buffer) > _MOST_LINE:
            raise DataError(_NO_LIST)


def _separator(begin: bytes, ended: bool) -> bytes:
    """What ends the paths of a list that begins so; nothing as long as that is open. Raises `DataError` for no list."""
    if b"\0" in begin:
        if b"\0\0" in begin or _CONTROLS.search(begin):  # as in files of nearly every kind, and in no names
            raise DataError(_NO_LIST)
        return b"\0"
    return b"\n" if b"\n" in begin or ended else b""


def _entry(entry: bytes, separator: bytes) -> bytes:
    if separator == b"\0":
        return entry
    if b"\0" in entry:
        raise DataError(_NO_LIST)
    entry = entry.removesuffix(b"\r").removeprefix(codecs.BOM_UTF8)
    return entry if entry.strip() else b""
