"""The kernels as a library: compiled for this very CPU at first use, and kept in the cache."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tenfold.data.cache import home
from tenfold.errors import StorageError, UsageError
from tenfold.files import sha256, write_bytes, write_text
from tenfold.training.precision import cpu_features

VARIABLE = "TENFOLD_KERNELS"
_SOURCE = Path(__file__).parent
_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC", "-shared", "-nostdlib")
_WIDE = "-mprefer-vector-width=512"
_COMPILERS = ("gcc", "cc", "clang")
_COMPILE_SECONDS = 60.0
_DTYPES = {torch.bfloat16: "bfloat16", torch.float32: "float32"}


@dataclass(frozen=True)
class Library:
    """The loaded kernels, or None, and the sentence that says which and why."""

    functions: ctypes.CDLL | None
    reason: str

    def call(self, name: str, dtype: torch.dtype, *arguments: "Tensor | int | None") -> None:
        """Call a kernel for numbers of `dtype`: tensors by their memory, then the number of threads.

        Raises `MemoryError`.
        """
        assert self.functions is not None
        function: Callable[..., int] = getattr(self.functions, f"{name}_{_DTYPES[dtype]}")
        plain = (ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else _number(a) for a in arguments)
        if not function(*plain, ctypes.c_int(torch.get_num_threads())):
            raise MemoryError(f"no memory for the sums of {name}")


def _number(value: int | None) -> Any:
    return ctypes.c_void_p(None) if value is None else ctypes.c_long(value)


def takes(x: Tensor) -> bool:
    """Whether there are kernels for such images: some pixels of N×C×H×W on the CPU, in bfloat16 or float32."""
    fits = x.device.type == "cpu" and x.ndim == 4 and x.dtype in _DTYPES
    fits = fits and min(x.shape[2:]) >= 2 and x.numel() > 4 * x.shape[1]  # PyTorch says what is wrong with fewer
    return fits and library().functions is not None


@cache
def library() -> Library:
    """The kernels for this CPU, from the cache or compiled now, which takes about a second.

    Never an error where they cannot be had. Raises `UsageError` where the variable is something else than on or off.
    """
    asked = os.environ.get(VARIABLE) or "on"
    if asked not in ("on", "off"):
        raise UsageError(f"{VARIABLE} must be on or off, not {asked!r}")
    if asked == "off":
        return Library(None, f"PyTorch's operations: {VARIABLE}=off")
    reason = f"no C compiler was found ({os.environ.get('CC') or ', '.join(_COMPILERS)})"
    for compiler in _compilers():
        try:
            return Library(_load(compiler), f"compiled by {Path(compiler[0]).name} for this CPU")
        except (OSError, StorageError, subprocess.SubprocessError) as error:
            reason = _why(error)
    return Library(None, f"PyTorch's operations: {reason}")


def _why(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        return f"the C compiler failed: {lines[0] if lines else f'exit code {error.returncode}'}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"the C compiler took more than {_COMPILE_SECONDS:.0f} s"
    return f"the kernels do not load: {error}"


def _compilers() -> Iterator[tuple[str, ...]]:
    """Commands that compile C: that of the variable CC, or those that are installed."""
    asked = os.environ.get("CC", "").split()
    for name, *options in [asked] if asked else [[name] for name in _COMPILERS]:
        if found := shutil.which(name):
            yield found, *options


def _load(compiler: tuple[str, ...]) -> ctypes.CDLL:
    """Load the library from the cache, or compile it. Raises `OSError`, `SubprocessError`."""
    folder = _cache_folder()
    if folder is None:
        return _load_once(_compile(compiler))
    path = folder / f"{_key(compiler)}.so"
    digest = path.with_suffix(".sha256")
    if not _is_whole(path, digest):
        compiled = _compile(compiler)
        try:
            write_bytes(path, compiled)
            write_text(digest, hashlib.sha256(compiled).hexdigest())
        except StorageError:  # a disk that is full
            return _load_once(compiled)
    return ctypes.CDLL(str(path))


def _cache_folder() -> Path | None:
    """The folder of compiled kernels; None where it cannot be had, or others could put code of theirs there."""
    try:
        folder = home() / "kernels"
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        about = folder.stat()
    except (StorageError, OSError):
        return None
    others = os.name == "posix" and (about.st_uid != os.geteuid() or about.st_mode & 0o022)
    return None if others else folder


def _is_whole(path: Path, digest: Path) -> bool:
    try:
        return digest.read_text() == sha256(path)
    except (OSError, ValueError):
        return False


def _load_once(compiled: bytes) -> ctypes.CDLL:
    """Load a library that is not kept."""
    with tempfile.TemporaryDirectory(prefix="tenfold-") as folder:
        path = Path(folder) / "kernels.so"
        path.write_bytes(compiled)
        return ctypes.CDLL(str(path))  # what is loaded stays so when its file is deleted


def _compile(compiler: tuple[str, ...]) -> bytes:
    """The library's bytes. Raises `SubprocessError`, `OSError`."""
    with tempfile.TemporaryDirectory(prefix="tenfold-") as folder:
        path = Path(folder) / "kernels.so"
        command = [*compiler, *_flags(), "-o", str(path), str(_SOURCE / "kernels.c")]
        subprocess.run(command, capture_output=True, check=True, timeout=_COMPILE_SECONDS, stdin=subprocess.DEVNULL)
        return path.read_bytes()


def _flags() -> tuple[str, ...]:
    return (*_FLAGS, _WIDE) if platform.machine() in ("x86_64", "AMD64") else _FLAGS


def _key(compiler: tuple[str, ...]) -> str:
    """A digest of all that the library depends on: sources, flags, compiler and CPU."""
    digest = hashlib.sha256()
    for part in _parts(compiler):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:32]


def _parts(compiler: tuple[str, ...]) -> Iterator[bytes]:
    for name in ("kernels.c", "blocks.h"):
        yield (_SOURCE / name).read_bytes()
    about = Path(compiler[0]).stat()  # of what a link stands for
    yield repr((compiler, _flags(), about.st_size, about.st_mtime_ns)).encode()
    yield repr((platform.machine(), sorted(cpu_features().items()))).encode()
