"""Archives made to do harm: nothing is written, memory stays bounded, and one line says what is wrong (exit 3)."""

import gzip
import io
import struct
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import tiny_cifar
from tests.support.process import run_python

pytestmark = pytest.mark.slow

Members = Callable[[tarfile.TarFile], None]
GROWTH_LIMIT = 100 * 2**20  # bytes; the largest member of real archives has 30 MiB
BOMB_BYTES = 256 * 2**20

READ = """
import resource, sys
from pathlib import Path
from tests.support.tiny_cifar import SPEC
from tenfold.data.archives import CIFAR10, read_arrays
from tenfold.errors import DataError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_arrays(Path(sys.argv[1]), SPEC if sys.argv[2] == 'tiny' else CIFAR10)
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
    """A sparse file's map that goes on for 64 MiB, which tarfile would turn into a list of millions of pairs."""
    member = tarfile.TarInfo("data_batch_1.bin")
    member.type, member.size = tarfile.GNUTYPE_SPARSE, 0
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[482] = 1
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    block = (b"%011o\0" % 0 + b"%011o\0" % 1) * 21 + b"\x01" + bytes(7)
    assert archive.fileobj is not None
    archive.fileobj.write(bytes(header) + block * (64 * 2**20 // 512))


def forged_memo(archive: tarfile.TarFile) -> None:
    """A pickle that remembers one number under an index for which C's unpickler makes a table of 1 GiB."""
    tiny_cifar.add(archive, "data_batch_1", b"\x80\x02K\x01r" + struct.pack("<I", 2**26) + b".")


def binary(stem: str) -> tuple[str, bytes]:
    name = f"cifar-10-batches-bin/{stem}.bin"
    return name, tiny_cifar.binary_files()[name]


NEGATIVE = (256**12 - 512).to_bytes(12)
HUGE = b"\x80" + (2**62).to_bytes(11)
UNKNOWN = "which no archive of CIFAR-10 does"
SIZE = "claims a size of"

# Hostile members before a valid data set, and what is said.
HOSTILE = {
    "parent folder": (file("../../evil"), UNKNOWN),
    "parent folder with a known name": (file("../readme.html"), UNKNOWN),
    "absolute name": (file("/tmp/evil"), UNKNOWN),
    "absolute known name": (file("/tmp/readme.html"), UNKNOWN),
    "symbolic link": (link("data_batch_1.bin", tarfile.SYMTYPE, "/etc/passwd"), UNKNOWN),
    "hard link": (link("data_batch_1.bin", tarfile.LNKTYPE, "/etc/passwd"), UNKNOWN),
    "character device": (file("data_batch_1.bin", type=tarfile.CHRTYPE, devmajor=1, devminor=5), UNKNOWN),
    "block device": (file("data_batch_1.bin", type=tarfile.BLKTYPE, devmajor=8), UNKNOWN),
    "pipe": (file("data_batch_1.bin", type=tarfile.FIFOTYPE), UNKNOWN),
    "extra member": (file("install.sh"), UNKNOWN),
    "duplicate member": (lambda archive: tiny_cifar.add(archive, *binary("test_batch")), "has test_batch.bin twice"),
    "oversized member": (
        lambda archive: tiny_cifar.add(archive, "test_batch.bin", bytes(2 * 2**20)),
        "test_batch.bin is larger than",
    ),
    "negative size": (raw_size("readme.html", NEGATIVE), SIZE),
    "negative size of a long name": (raw_size("x", NEGATIVE, tarfile.GNUTYPE_LONGNAME), SIZE),
    "huge size": (raw_size("data_batch_1.bin", HUGE), SIZE),
    "huge attributes": (raw_size("x", HUGE, tarfile.XHDTYPE), SIZE),
    "thousands of folders": (folders, "more than 1000 members"),
}

# Alone, and read as the real data set, whose limits are those that count.
BOMBS = {
    "in a batch": (bomb("data_batch_1.bin"), "is larger than"),
    "in an extra": (bomb("readme.html"), "unpacks to more than"),
    "in a long name": (bomb("x", tarfile.GNUTYPE_LONGNAME), "unpacks to more than"),
    "in attributes": (bomb("x", tarfile.XHDTYPE), "unpacks to more than"),
    "in a sparse map": (sparse_map, "holds none of CIFAR-10's files"),
    "in a pickle": (forged_memo, "data_batch_1 cannot be decoded"),
}


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Path]:
    """A folder three levels down; afterwards, nothing but the archive may lie anywhere under `tmp_path`."""
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    yield folder
    assert {path.name for path in tmp_path.rglob("*")} == {"a", "b", "c", "archive"}
    assert not Path("/tmp/evil").exists()


def read(content: bytes, folder: Path, spec: str) -> tuple[str, int]:
    """What reading says, and by how many bytes the process grew."""
    path = folder / "archive"
    path.write_bytes(content)
    ended = run_python(READ, path, spec, cwd=folder)
    assert ended.returncode == 0, ended.stderr
    message, growth = ended.stdout.splitlines()
    return message, int(growth)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archive(name: str, sandbox: Path) -> None:
    """Without `_expected_name`: unknown members, links and devices were accepted. Without the check of claimed sizes:
    "huge attributes" ran for ever. Without the count of members, of doubles: accepted.
    """
    member, expected = HOSTILE[name]
    message, growth = read(archive_with(member), sandbox, "tiny")
    assert message.startswith(str(sandbox / "archive"))
    assert expected in message
    assert growth < GROWTH_LIMIT


@pytest.mark.parametrize("name", BOMBS)
def test_bomb(name: str, sandbox: Path) -> None:
    """Without `_Metered`: all 256 MiB were unpacked. Without `_EXTENSIONS`: long names, attributes and the sparse map
    took 170 MiB and more. Without `_bounded`: a batch was read whole. With C's unpickler: the pickle took 876 MiB.
    """
    member, expected = BOMBS[name]
    message, growth = read(archive_with(member, valid=False), sandbox, "real")
    assert message.startswith(str(sandbox / "archive"))
    assert expected in message
    assert growth < GROWTH_LIMIT


def test_the_archive_without_hostile_members_is_accepted(sandbox: Path) -> None:
    """Otherwise the tests above would show nothing."""
    assert read(archive_with(), sandbox, "tiny")[0] == "accepted"


def test_gzip_of_something_else(sandbox: Path) -> None:
    assert "is damaged" in read(gzip.compress(b"evil" * 1000), sandbox, "tiny")[0]
