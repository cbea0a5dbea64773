"""Pretrained weights: from an installed package, checked, converted once, and kept in the cache as safetensors."""

import contextlib
import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from tenfold import extras
from tenfold.data.cache import home, writing_home
from tenfold.errors import ModelError, StorageError
from tenfold.files import sha256, write_bytes

Tensors = Mapping[str, Tensor]
_DIGEST = "sha256"  # in the cached file's metadata


@dataclass(frozen=True)
class PretrainedWeights:
    """Where weights come from, and what is to be said of them.

    extra, module, file: the extra that installs the package, its module, and the file within it; digest: SHA-256 of
    that file. convert: from the file's tensors to the network's, by name. source, trained_on, license: for the card.
    """

    name: str
    extra: str
    module: str
    file: str
    digest: str
    convert: Callable[[Tensors], dict[str, Tensor]]
    source: str
    trained_on: str
    license: str

    def read(self) -> dict[str, Tensor]:
        """The weights, float32 on the CPU, by the names of the network's parameters.

        Raises `UsageError` where the package is missing, `ModelError` where its file is not the one known here.
        """
        cached = self._cached
        tensors = _read_cached(cached)
        if tensors is None:
            tensors = self.convert(self._read_package())
            # a full disk or a read-only home: they are converted again next time
            with contextlib.suppress(StorageError), writing_home():
                write_bytes(cached, safetensors.torch.save(tensors, {_DIGEST: _digest(tensors)}))
        return tensors

    def require(self) -> None:
        """Raise `UsageError` where there are none to read: neither the package nor what was converted before."""
        if _read_cached(self._cached) is None:
            extras.require(self.extra, (self.module,))

    @property
    def _cached(self) -> Path:
        return home() / "weights" / f"{self.name}-{self.digest[:16]}.safetensors"

    def _read_package(self) -> Tensors:
        extras.require(self.extra, (self.module,))
        spec = importlib.util.find_spec(self.module)
        assert spec is not None and spec.origin is not None
        path = Path(spec.origin).parent / self.file
        again = f"install the extra {self.extra!r} again"
        try:
            found = sha256(path)
        except OSError as error:
            raise ModelError(f"{path}: pretrained weights that cannot be read ({error.strerror}): {again}") from error
        if found != self.digest:
            raise ModelError(f"{path}: not the pretrained weights that are known here: {again}")
        tensors: Tensors = torch.load(path, map_location="cpu", weights_only=True)
        return tensors


def _read_cached(path: Path) -> dict[str, Tensor] | None:
    """What was converted before; None where there is nothing, or what there is was cut short or changed."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dictionary)
            noted = (file.metadata() or {}).get(_DIGEST)
    except (OSError, safetensors.SafetensorError):
        return None
    return tensors if noted == _digest(tensors) else None


def _digest(tensors: Tensors) -> str:
    """SHA-256 of names, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def fold_norm(tensors: Tensors, convolution: str, norm: str, eps: float) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution without bias that does what it and the batch norm behind it did."""
    scale = tensors[f"{norm}.weight"] / torch.sqrt(tensors[f"{norm}.running_var"] + eps)
    weight = tensors[f"{convolution}.weight"] * scale.view(-1, 1, 1, 1)
    return weight.contiguous(), tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * scale
