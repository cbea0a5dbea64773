"""A network's features of images, the inputs of its layer `head`: computed once, then kept in the cache.

For pretrained networks, whose features of a folder stay the same from run to run. Shapes: N images, F features.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tenfold.data.cache import home, writing_home
from tenfold.errors import StorageError
from tenfold.files import atomic_write
from tenfold.training.augment import Normalization
from tenfold.training.device import DeviceConfig
from tenfold.training.infer import batch_size_for, predict_logits
from tenfold.training.networks.module import Network

MOST_CACHED_BYTES = 2_000_000_000
OnBatch = Callable[[float], None]


def has_features(network: nn.Module) -> bool:
    """Whether the network has a linear layer called `head`, so that it has features."""
    return isinstance(getattr(network, "head", None), nn.Linear)


def extract_features(
    network: Network,
    images: Tensor,
    normalization: Normalization,
    device_config: DeviceConfig,
    on_batch: OnBatch = lambda share: None,
    mirrored: bool = False,
) -> Tensor:
    """Inputs of the layer `head` for uint8 N×H×W×3: float32 N×F on the CPU.

    `on_batch`: as for `predict_logits`. `mirrored`: those of the images' mirror images.
    """
    return features_and_logits(network, images, normalization, device_config, on_batch, mirrored)[0]


def features_and_logits(
    network: Network,
    images: Tensor,
    normalization: Normalization,
    device_config: DeviceConfig,
    on_batch: OnBatch = lambda share: None,
    mirrored: bool = False,
) -> tuple[Tensor, Tensor]:
    """As `extract_features`, with the logits of a single view, float32 N×K, in one pass."""
    seen: list[Tensor] = []
    head = network.get_submodule("head")
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float().cpu()))
    try:
        logits = [
            predict_logits(network, batch, normalization, device_config, on_batch=on_batch).single
            for batch in _batches(images, mirrored)
        ]
    finally:
        hook.remove()
    return torch.cat(seen), torch.cat(logits)


def cached_features(
    network: Network,
    images: Tensor,
    normalization: Normalization,
    device_config: DeviceConfig,
    on_batch: OnBatch = lambda share: None,
    mirrored: bool = False,
) -> Tensor:
    """As `extract_features`, rounded to float16, from the cache where this very network has seen these images before.

    A cache that cannot be read or written is done without.
    """
    path = home() / "features" / f"{_digest(network, images, normalization, device_config, mirrored)}.npy"
    features = _read(path, len(images))
    if features is None:
        features = extract_features(network, images, normalization, device_config, on_batch, mirrored).half()
        _keep(path, features)
    else:
        on_batch(len(images))
    return features.float()


def _batches(images: Tensor, mirrored: bool) -> Iterator[Tensor]:
    """The images, or their mirror images, some at a time: a copy of all would take as much memory as they do."""
    for batch in images.split(batch_size_for(images.shape[1])):
        yield batch.flip(2) if mirrored else batch


def _digest(
    network: Network, images: Tensor, normalization: Normalization, device_config: DeviceConfig, mirrored: bool
) -> str:
    """Of all that the features depend on: the weights but the head's, the images, and how they are computed."""
    how = (torch.__version__, device_config.device.type, device_config.dtype_name, normalization)
    digest = hashlib.sha256(repr((how, tuple(images.shape), network)).encode())
    for name, tensor in network.state_dict().items():
        if not name.startswith("head."):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    for batch in _batches(images, mirrored):
        digest.update(batch.cpu().contiguous().numpy().data)
    return digest.hexdigest()[:32]


def _read(path: Path, count: int) -> Tensor | None:
    try:
        features = np.load(path)
        with contextlib.suppress(OSError):
            os.utime(path)  # used last now
    except (OSError, ValueError, EOFError):
        return None
    return torch.from_numpy(features) if features.shape[:1] == (count,) and features.dtype == np.float16 else None


def _keep(path: Path, features: Tensor) -> None:
    try:
        with writing_home(), atomic_write(path) as file:
            np.save(file, features.numpy())
        _remove_oldest(path.parent)
    except (OSError, StorageError):  # a full disk, a read-only home: they are computed again next time
        return


def _remove_oldest(folder: Path) -> None:
    """Keep what was used last, up to `MOST_CACHED_BYTES`."""
    files = sorted(folder.glob("*.npy"), key=lambda path: path.stat().st_mtime, reverse=True)
    total = 0
    for path in files:
        total += path.stat().st_size
        if total > MOST_CACHED_BYTES:
            path.unlink(missing_ok=True)
