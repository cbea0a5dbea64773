"""Every published form of CIFAR-10, packed and extracted, comes out as the same arrays; damaged ones are refused."""

import io
import os
import pickle
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from tenfold.data import Dataset
from tenfold.data.archives import CIFAR10, array_sha256, read_arrays
from tenfold.errors import DataError, UsageError
from tests.support import tiny_cifar
from tests.support.tiny_cifar import ARRAYS, FORMATS, ROWS, SPEC


def assert_right(path: Path) -> None:
    arrays = read_arrays(path, SPEC)
    assert arrays.keys() == ARRAYS.keys()
    for name, expected in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], expected)
        assert arrays[name].dtype == np.uint8


@pytest.fixture(params=FORMATS)
def files(request: pytest.FixtureRequest) -> tiny_cifar.Files:
    return FORMATS[request.param]()


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("packed", [True, False])
def test_archive(files: tiny_cifar.Files, packed: bool, tmp_path: Path) -> None:
    assert_right(write(tmp_path / "no extension", tiny_cifar.tar(files, packed=packed)))


def test_archive_in_another_order(files: tiny_cifar.Files, tmp_path: Path) -> None:
    assert_right(write(tmp_path / "x", tiny_cifar.tar(dict(reversed(files.items())))))


def test_extracted(files: tiny_cifar.Files, tmp_path: Path) -> None:
    """The folder that holds the publisher's folder, and the publisher's folder itself."""
    assert_right(tiny_cifar.write_folder(files, tmp_path))
    assert_right(next(tmp_path.iterdir()))


def test_real_digests_are_the_publishers(cifar10: Dataset) -> None:
    """SHA-256 by hashlib over the loaded arrays; 5,000 and 1,000 of each class, as the publisher says."""
    splits = {"train": cifar10.train, "test": cifar10.test}
    for split, data in splits.items():
        assert array_sha256(data.images) == CIFAR10.sha256[f"{split}_images"]
        assert array_sha256(data.labels) == CIFAR10.sha256[f"{split}_labels"]
    assert np.bincount(cifar10.train.labels).tolist() == [5_000] * 10
    assert np.bincount(cifar10.test.labels).tolist() == [1_000] * 10


@pytest.mark.parametrize("name", ARRAYS)
def test_wrong_content_names_the_array(name: str, tmp_path: Path) -> None:
    """Without `verify`: arrays with a wrong pixel or label were returned."""
    path = write(tmp_path / "x", tiny_cifar.tar(tiny_cifar.binary_files()))
    spec = tiny_cifar.Spec(ROWS, tiny_cifar.BATCHES, {**SPEC.sha256, name: "0" * 64})
    with pytest.raises(DataError, match=name.replace("_", " ")):
        read_arrays(path, spec)


def test_missing_member_is_named(files: tiny_cifar.Files, tmp_path: Path) -> None:
    """Without the check for a whole layout: arrays with uninitialised rows were refused only for their checksum."""
    name = next(name for name in files if "batch_3" in name)
    del files[name]
    with pytest.raises(DataError, match=f"lacks {name.rpartition('/')[2]}"):
        read_arrays(write(tmp_path / "x", tiny_cifar.tar(files)), SPEC)


@pytest.mark.parametrize("content", [b"", b"not an archive", b"\x1f\x8b", b"PAR1", b"\xfd7zXZ\x00" + bytes(600)])
def test_unrecognised_files_are_named_with_what_is_accepted(content: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "x.tar.gz", content)
    with pytest.raises(DataError, match=str(tmp_path)):
        read_arrays(path, SPEC)


def test_missing_path_and_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: No such file .* accepted: cifar-10-binary\.tar\.gz"):
        read_arrays(tmp_path / "nowhere", SPEC)
    with pytest.raises(DataError, match="holds none of CIFAR-10's files; accepted"):
        read_arrays(tmp_path, SPEC)


@pytest.mark.parametrize("keep", [100, 0.5, 0.99])
def test_truncated_archives(files: tiny_cifar.Files, keep: float, tmp_path: Path) -> None:
    """Without `_readable`: EOFError and a traceback were shown."""
    content = tiny_cifar.tar(files)
    path = write(tmp_path / "x", content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    with pytest.raises(DataError, match=str(path)):
        read_arrays(path, SPEC)


class Touch:
    """Unpickled by an ordinary unpickler, it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def read_with_batch(content: bytes, folder: Path) -> None:
    """Read an extracted python version whose first batch has that content."""
    files = tiny_cifar.python_files()
    files["cifar-10-batches-py/data_batch_1"] = content
    read_arrays(tiny_cifar.write_folder(files, folder), SPEC)


def test_pickles_run_nothing(tmp_path: Path) -> None:
    """Without `find_class`: the file was created."""
    evil = tmp_path / "evil"
    with pytest.raises(DataError, match=r"data_batch_1 cannot be decoded .*asks for .*, which no batch"):
        read_with_batch(pickle.dumps(Touch(evil)), tmp_path / "cifar")
    assert not evil.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x02}.",
        b"\x80\x02](K\x01e.",
        b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b".",  # bytes that are not there
        b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",  # a bytearray that is not there
        b"\x80\x02" + b"(" * 10_000 + b"t" * 10_000 + b".",
        tiny_cifar.python2_pickle(bytes(ROWS * 3072), [10] * ROWS),
        tiny_cifar.python2_pickle(bytes(ROWS * 3072), [-1] * ROWS),
        tiny_cifar.python2_pickle(bytes(ROWS * 3072 - 1), [0] * ROWS),
        tiny_cifar.python2_pickle(bytes(ROWS * 3072), [0] * (ROWS - 1)),
    ],
)
def test_malformed_pickles(content: bytes, tmp_path: Path) -> None:
    """Without `_place` turning exceptions into `DataError`: tracebacks of nine kinds were shown."""
    with pytest.raises(DataError, match="data_batch_1 cannot be decoded"):
        read_with_batch(content, tmp_path)


def read_with_package_file(name: str, content: bytes, folder: Path) -> None:
    files = tiny_cifar.npm_files()
    files[f"package/{name}"] = content
    read_arrays(tiny_cifar.write_folder(files, folder), SPEC)


def png_claiming(width: int, height: int) -> bytes:
    """A PNG that claims to be larger than its 4 pixels; its checksums are right."""
    content = tiny_cifar.png(np.zeros((2, 2, 3), np.uint8))
    header = content[12:16] + struct.pack(">II", width, height) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


MALFORMED_PNGS = {
    "huge": (png_claiming(13_000, 13_000), "not an RGB PNG of 1024×20 pixels"),
    "large": (png_claiming(9_000, 9_000), "not an RGB PNG of 1024×20 pixels"),
    "lying": (png_claiming(1024, ROWS), "truncated"),
    "grey": (tiny_cifar.png(np.zeros((ROWS, 1024), np.uint8)), "not an RGB PNG of 1024×20 pixels"),
    "narrow": (tiny_cifar.png(np.zeros((ROWS, 1023, 3), np.uint8)), "not an RGB PNG of 1024×20 pixels"),
    "truncated": (tiny_cifar.npm_files()["package/test_batch.png"][:-200], "truncated"),
    "empty": (b"", "not an RGB PNG of 1024×20 pixels"),
}


@pytest.mark.parametrize("name", MALFORMED_PNGS)
def test_malformed_pngs(name: str, tmp_path: Path) -> None:
    """Without the header check: Pillow warned of a bomb ("huge"), and made room for 243 MB of pixels ("large")."""
    content, expected = MALFORMED_PNGS[name]
    with pytest.raises(DataError, match=rf"test_batch\.png cannot be decoded .*{expected}"):
        read_with_package_file("test_batch.png", content, tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"[1, 2]", b"{}", b"[" * 10_000, b"[" + b"1.5, " * 19 + b"1]", b"[" + b"10, " * 19 + b"1]"]
)
def test_malformed_labels(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"test_lables\.json cannot be decoded"):
        read_with_package_file("test_lables.json", content, tmp_path)


def write_parquet(folder: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder.mkdir()
    for split in ("train", "test"):
        images = [{"bytes": tiny_cifar.png(image), "path": None} for image in ARRAYS[f"{split}_images"]]
        table = pyarrow.table({"img": images, "label": ARRAYS[f"{split}_labels"].astype(np.int64)})
        parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")


def test_parquet(tmp_path: Path) -> None:
    """A folder, the mirror's folder in it, and either file; damaged and half there."""
    folder = tmp_path / "plain_text"
    write_parquet(folder)
    train = folder / "train-00000-of-00001.parquet"
    for path in (tmp_path, folder, train):
        assert_right(path)
    train.write_bytes(train.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"train-00000-of-00001\.parquet cannot be decoded"):
        read_arrays(folder, SPEC)
    train.unlink()
    with pytest.raises(DataError, match="lacks one of"):
        read_arrays(folder, SPEC)


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for split in ("train", "test"):
        (tmp_path / f"{split}-0.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match="pip install pyarrow"):
        read_arrays(tmp_path, SPEC)


def test_pickles_of_python_3(tmp_path: Path) -> None:
    """Written anew by Python 3 and NumPy 2, the batches still read."""
    files = {}
    for batch in tiny_cifar.batches():
        pixels = np.frombuffer(b"".join(map(tiny_cifar.planes, batch.images)), np.uint8).reshape(ROWS, 3072)
        content = io.BytesIO()
        pickle.dump({"data": pixels, "labels": batch.labels.tolist()}, content, protocol=4)
        files[batch.stem] = content.getvalue()
    assert_right(tiny_cifar.write_folder(files, tmp_path))


def test_a_pipe_is_refused_unopened(tmp_path: Path) -> None:
    """Without the check: it was waited for, for ever."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        read_arrays(tmp_path / "pipe")
