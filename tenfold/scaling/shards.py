"""Very many images in shards: where they lie, and a shard's answers as a parquet file. Knows nothing of Ray.

A shard is a few files of a folder, or a row group of a parquet file with a column of image files' bytes. Shards come in
the same order each time, and a shard's file says which shard it answers, so that interrupted work resumes.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tenfold.data.ignored import IMAGE_SUFFIXES, is_hidden, parse_note, shows_output
from tenfold.data.image import read_file
from tenfold.errors import DataError, ImageError, one_line
from tenfold.files import ALL_OWN, OWN_NOTE
from tenfold.serving.inputs import Input, find
from tenfold.serving.predict import BATCH_SIZE, REJECTED, PredictionResult, answer
from tenfold.serving.predictor import Predictor

if TYPE_CHECKING:
    from pyarrow import DataType, NativeFile, Table
    from pyarrow.fs import FileInfo, FileSystem

FILES = 8 * BATCH_SIZE
"""Files in a shard: whole batches, so that they are the batches of `tenfold predict` on one machine."""
_NOTE = b"tenfold"


@dataclass(frozen=True)
class Shard:
    """Files to answer; or one parquet file, a row group of it, and the column of it that holds images' bytes.

    root: the URI that a file system is found by, or nothing for this machine's own.
    """

    root: str
    names: tuple[str, ...]
    column: str = ""
    group: int = 0

    @property
    def digest(self) -> str:
        """What tells this shard from any other."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()


def find_shards(source: str, column: str = "") -> Iterator[Shard]:
    """The shards of a folder, or of anything that pyarrow's file systems reach by a URI; of its parquet files if
    `column` is given. No more than a folder's names are held at a time. Raises `DataError` for a source without any.
    """
    source = source if "://" in source else str(Path(source).absolute())  # nodes work in other folders
    shards = _row_groups(source, column) if column else _files(source)
    first = next(shards, None)
    if first is None:
        raise DataError(f"no {'parquet files' if column else 'images'} in {source}")
    yield first
    yield from shards


def _files(source: str) -> Iterator[Shard]:
    if "://" not in source:
        if not Path(source).exists():
            raise DataError(f"{source} is not there")
        names: Iterator[str] = (item.name for item in find([source]))
        root = ""
    else:
        names = (name for name in _walk(source) if Path(name).suffix.lower() in IMAGE_SUFFIXES)
        root = source
    while some := tuple(islice(names, FILES)):
        yield Shard(root, some)


def _row_groups(source: str, column: str) -> Iterator[Shard]:
    from pyarrow import ArrowInvalid, parquet

    filesystem, _ = _open(source)
    for name in _walk(source, hidden=("_",)):  # what writers of parquet keep for themselves begins so
        if not name.endswith(".parquet"):
            continue
        try:
            file = parquet.ParquetFile(name, filesystem=filesystem)
        except (OSError, ArrowInvalid) as error:
            raise DataError(f"{name}: {one_line(error)}") from error
        if column not in file.schema_arrow.names:
            raise DataError(f"{name} has no column {column!r}: it has {', '.join(file.schema_arrow.names)}")
        kind = file.schema_arrow.field(column).type
        if not _holds_bytes(kind):
            raise DataError(f"{name}: column {column!r} is of type {kind}; wanted are the bytes of image files")
        for group in range(file.metadata.num_row_groups):
            yield Shard(source if "://" in source else "", (name,), column, group)


def _holds_bytes(kind: "DataType") -> bool:
    """Whether rows of this type are bytes, or structures with some in `bytes`; empty ones are named one by one."""
    from pyarrow import BaseExtensionType, types

    kind = kind.storage_type if isinstance(kind, BaseExtensionType) else kind
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    is_bytes = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view, types.is_null)
    return any(asked(kind) for asked in is_bytes)


def _open(source: str) -> "tuple[FileSystem, str]":
    """The file system of a URI or path, and the path in it. Raises `DataError`."""
    from pyarrow import ArrowException
    from pyarrow.fs import FileSystem, LocalFileSystem

    if "://" not in source:
        return LocalFileSystem(), source
    try:
        return FileSystem.from_uri(source)
    except (OSError, ValueError, ArrowException) as error:
        raise DataError(f"{source}: {one_line(error)}") from error


def _walk(source: str, hidden: tuple[str, ...] = ()) -> Iterator[str]:
    """The files of a folder and of those in it, sorted, without what is never data and those that begin so; or the one.

    Raises `DataError`.
    """
    from pyarrow.fs import FileSelector, FileType

    filesystem, path = _open(source)
    try:
        (top,) = filesystem.get_file_info([path])
        if top.type == FileType.NotFound:
            raise DataError(f"{source} is not there")
        waiting = [top]
        while waiting:
            info = waiting.pop()
            if info.type == FileType.Directory:
                inner = filesystem.get_file_info(FileSelector(info.path))
                shown = [entry for entry in inner if not entry.base_name.startswith(hidden)]
                waiting += sorted(_data(filesystem, shown, info is top), key=lambda entry: entry.path, reverse=True)
            else:
                yield str(info.path)
    except OSError as error:
        raise DataError(f"{source}: {one_line(error)}") from error


def _open_entry(filesystem: "FileSystem", entry: "FileInfo") -> "NativeFile":
    return filesystem.open_input_stream(entry.path)


def _data(filesystem: "FileSystem", entries: "list[FileInfo]", named: bool) -> "list[FileInfo]":
    """What of a folder may be data: nothing of tenfold's output, except where the user `named` that folder itself."""
    by_name = {entry.base_name: entry for entry in entries}
    own = frozenset[str]()
    if OWN_NOTE in by_name:
        with _open_entry(filesystem, by_name[OWN_NOTE]) as stream:
            own = parse_note(bytes(stream.read()))
    if not named and (ALL_OWN in own or shows_output(by_name, lambda: _open_entry(filesystem, by_name["recipe.json"]))):
        return []
    return [entry for entry in entries if not is_hidden(entry.base_name) and entry.base_name not in own]


# --- answers -----------------------------------------------------------------------------------------------------


def predict_shard(classifier: Predictor, shard: Shard, top: int, reject: bool) -> bytes:
    """The shard's answers as a parquet file: path, label, probability (and further predictions), error.

    Of a model that has a distance, also that, and by what an image is rejected, in words with spaces between.
    """
    from pyarrow import parquet

    answers = [one for batch in answer(classifier, _inputs(shard), top, reject) for one in batch]
    file = io.BytesIO()
    has_distance = classifier.about.distance is not None
    parquet.write_table(_table(answers, min(top, len(classifier.classes)), has_distance, shard), file)
    return file.getvalue()


def _inputs(shard: Shard) -> Iterable[Input]:
    if shard.column:
        return _rows(shard)
    if not shard.root:
        return [Input(name, partial(read_file, Path(name))) for name in shard.names]
    filesystem, _ = _open(shard.root)
    return [Input(name, partial(_read, filesystem, name)) for name in shard.names]


def _read(filesystem: "FileSystem", name: str) -> bytes:
    try:
        with filesystem.open_input_stream(name) as stream:
            return bytes(stream.read())
    except OSError as error:
        raise ImageError(f"cannot be read: {one_line(error)}") from error


def _rows(shard: Shard) -> Iterator[Input]:
    """Rows of a row group, named FILE#GROUP.ROW; a column of structures holds its images' bytes in `bytes`."""
    from pyarrow import ArrowException, parquet

    (name,) = shard.names
    filesystem, _ = _open(shard.root or name)
    try:
        file = parquet.ParquetFile(name, filesystem=filesystem)
        values = file.read_row_group(shard.group, [shard.column])[shard.column]
    except (OSError, ArrowException) as error:
        raise DataError(f"{name}, row group {shard.group}: {one_line(error)}") from error
    for row, value in enumerate(values):
        yield Input(f"{name}#{shard.group}.{row}", partial(_bytes_of, value))


def _bytes_of(value: Any) -> bytes:
    content = value.as_py()
    content = content.get("bytes") if isinstance(content, dict) else content
    if not isinstance(content, bytes):
        raise ImageError("no bytes in this row")
    return content


def _table(answers: list[PredictionResult], top: int, has_distance: bool, shard: Shard) -> "Table":
    import pyarrow

    columns: dict[str, Any] = {"path": pyarrow.array([_text(one.path) for one in answers], pyarrow.string())}
    for rank in range(top):
        end = f"_{rank + 1}" if rank else ""
        predictions = [one.predictions[rank] if one.predictions else (None, None) for one in answers]
        labels = [
            REJECTED if one.rejected and not rank else label
            for one, (label, _) in zip(answers, predictions, strict=True)
        ]
        columns[f"label{end}"] = pyarrow.array(labels, pyarrow.string())
        columns[f"probability{end}"] = pyarrow.array([sure for _, sure in predictions], pyarrow.float32())
    if has_distance:
        reasons = [None if one.error is not None else " ".join(one.rejected_by) for one in answers]
        columns["distance"] = pyarrow.array([one.distance for one in answers], pyarrow.float32())
        columns["rejected_by"] = pyarrow.array(reasons, pyarrow.string())
    columns["error"] = pyarrow.array([one.error for one in answers], pyarrow.string())
    return pyarrow.table(columns).replace_schema_metadata({_NOTE: shard.digest})


def _text(name: str) -> str:
    """A file's name as UTF-8, which parquet asks for: bytes that are none become escapes."""
    return name.encode(errors="backslashreplace").decode()


@dataclass(frozen=True)
class ShardResult:
    """What a shard's file says of itself: which shard it answers, its rows, and the errors among them."""

    shard: str
    rows: int
    errors: tuple[tuple[str, str], ...]


def read_result(content: bytes | Path) -> ShardResult:
    """Read a shard's file. Raises `DataError` where it is damaged."""
    from pyarrow import ArrowException, parquet

    try:
        source = content if isinstance(content, Path) else io.BytesIO(content)
        table = parquet.ParquetFile(source).read(["path", "error"])
        bad = table.filter(table["error"].is_valid()).to_pylist()
        return ShardResult(
            table.schema.metadata[_NOTE].decode(), table.num_rows, tuple((row["path"], row["error"]) for row in bad)
        )
    except (OSError, ArrowException, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{content if isinstance(content, Path) else 'a shard'} is damaged: remove it") from error
