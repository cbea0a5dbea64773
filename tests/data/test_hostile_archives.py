"""Archives made to do harm: nothing is written, memory stays bounded, and one line says what is wrong (exit 3)."""

import gzip
import io
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny_cifar

Members = Callable[[tarfile.TarFile], None]
GROWTH_LIMIT = 48 * 2**20  # bytes; the bombs below unpack to 256 MiB
BOMB_BYTES = 256 * 2**20

READ = """
import resource, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from tiny_cifar import SPEC
from tenfold.data.archives import read_arrays
from tenfold.errors import DataError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_arrays(Path(sys.argv[1]), SPEC)
    print("accepted")
except DataError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def archive_with(*members: Members, valid: bool = True) -> bytes:
    """A gzipped tar: hostile members first, then a valid data set (so that nothing else is wrong)."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz", compresslevel=1) as archive:
        for member in members:
            member(archive)
        for name, data in tiny_cifar.binary_files().items() if valid else ():
            tiny_cifar.add(archive, name, data)
    return content.getvalue()


def file(name: str, **attributes: object) -> Members:
    return lambda archive: tiny_cifar.add(archive, name, b"evil", **attributes)


def link(name: str, kind: bytes, target: str) -> Members:
    return lambda archive: tiny_cifar.add(archive, name, type=kind, linkname=target)


def bomb(name: str, kind: bytes = tarfile.REGTYPE) -> Members:
    def add(archive: tarfile.TarFile) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.type = BOMB_BYTES, kind
        assert archive.fileobj is not None
        archive.fileobj.write(member.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(BOMB_BYTES // 2**20):
            archive.fileobj.write(bytes(2**20))
        archive.offset += 512 + BOMB_BYTES

    return add


def raw_size(name: str, size_field: bytes, kind: bytes = tarfile.REGTYPE) -> Members:
    """A header whose size field is what no tar program writes."""

    def add(archive: tarfile.TarFile) -> None:
        member = tarfile.TarInfo(name)
        member.type = kind
        header = bytearray(member.tobuf(tarfile.USTAR_FORMAT))
        header[124:136] = size_field
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        assert archive.fileobj is not None
        archive.fileobj.write(bytes(header))
        archive.offset += 512

    return add


def folders(archive: tarfile.TarFile) -> None:
    for i in range(8_000):
        tiny_cifar.add(archive, f"folder{i}", type=tarfile.DIRTYPE)


def sparse_map(archive: tarfile.TarFile) -> None:
    """A sparse file's map that goes on for 5 MiB, which tarfile would turn into a list of millions of pairs."""
    member = tarfile.TarInfo("data_batch_1.bin")
    member.type, member.size = tarfile.GNUTYPE_SPARSE, 0
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[482] = 1
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    block = (b"%011o\0" % 0 + b"%011o\0" % 1) * 21 + b"\x01" + bytes(7)
    assert archive.fileobj is not None
    archive.fileobj.write(bytes(header) + block * (5 * 2**20 // 512))


NEGATIVE = (256**12 - 512).to_bytes(12)
HUGE = b"\x80" + (2**62).to_bytes(11)


def binary(stem: str) -> tuple[str, bytes]:
    name = f"cifar-10-batches-bin/{stem}.bin"
    return name, tiny_cifar.binary_files()[name]


HOSTILE = {
    "parent folder": archive_with(file("../../evil")),
    "parent folder with a known name": archive_with(file("../readme.html")),
    "absolute name": archive_with(file("/tmp/evil")),
    "absolute known name": archive_with(file("/tmp/readme.html")),
    "symbolic link": archive_with(link("data_batch_1.bin", tarfile.SYMTYPE, "/etc/passwd")),
    "hard link": archive_with(link("data_batch_1.bin", tarfile.LNKTYPE, "/etc/passwd")),
    "character device": archive_with(file("data_batch_1.bin", type=tarfile.CHRTYPE, devmajor=1, devminor=5)),
    "block device": archive_with(file("data_batch_1.bin", type=tarfile.BLKTYPE, devmajor=8)),
    "pipe": archive_with(file("data_batch_1.bin", type=tarfile.FIFOTYPE)),
    "extra member": archive_with(file("install.sh")),
    "duplicate member": archive_with(lambda archive: tiny_cifar.add(archive, *binary("test_batch"))),
    "oversized member": archive_with(lambda archive: tiny_cifar.add(archive, "test_batch.bin", bytes(2 * 2**20))),
    "negative size": archive_with(raw_size("readme.html", NEGATIVE)),
    "negative size of a long name": archive_with(raw_size("x", NEGATIVE, tarfile.GNUTYPE_LONGNAME)),
    "huge size": archive_with(raw_size("data_batch_1.bin", HUGE)),
    "huge attributes": archive_with(raw_size("x", HUGE, tarfile.XHDTYPE)),
    "endless sparse map": archive_with(sparse_map),
    "thousands of folders": archive_with(folders),
    "only hostile": archive_with(file("../evil"), valid=False),
    "not gzip inside": gzip.compress(b"evil" * 1000),
}
BOMBS = {
    "bomb in a batch": bomb("data_batch_1.bin"),
    "bomb in an extra": bomb("readme.html"),
    "bomb in a long name": bomb("x", tarfile.GNUTYPE_LONGNAME),
    "bomb in attributes": bomb("x", tarfile.XHDTYPE),
}


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Path]:
    """A folder three levels down; afterwards, nothing but the archive may lie anywhere under `tmp_path`."""
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    yield folder
    assert {path.name for path in tmp_path.rglob("*")} == {"a", "b", "c", "archive"}
    assert not Path("/tmp/evil").exists()


def read(content: bytes, folder: Path) -> tuple[str, int]:
    """What reading says, and by how many bytes the process grew."""
    path = folder / "archive"
    path.write_bytes(content)
    words = [sys.executable, "-c", READ, str(path), str(Path(__file__).parent)]
    ended = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    message, growth = ended.stdout.splitlines()
    return message, int(growth)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archive(name: str, sandbox: Path) -> None:
    message, growth = read(HOSTILE[name], sandbox)
    assert str(sandbox / "archive") in message
    assert growth < GROWTH_LIMIT


@pytest.mark.parametrize("name", BOMBS)
def test_bomb(name: str, sandbox: Path) -> None:
    message, growth = read(archive_with(BOMBS[name], valid=False), sandbox)
    assert str(sandbox / "archive") in message
    assert growth < GROWTH_LIMIT


def test_the_archive_without_hostile_members_is_accepted(sandbox: Path) -> None:
    """Otherwise the tests above would show nothing."""
    assert read(archive_with(), sandbox)[0] == "accepted"
