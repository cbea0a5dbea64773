"""Features that are computed once an image: of pretrained networks, whose features stay the same from run to run.

They are kept image by image, so that another split of a folder, or a folder with some more images, needs few new ones.
A file holds those of one call, beside the digests of the images' pixels, and is named after its own. Shapes: N images,
F features.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tenfold.data.cache import home, writing_home
from tenfold.errors import StorageError
from tenfold.files import atomic_write
from tenfold.training.augment import VIEWS, Normalization, View
from tenfold.training.device import DeviceConfig
from tenfold.training.features import extract_features
from tenfold.training.images import ImageTensor, rows_of
from tenfold.training.infer import Logits, OnBatch, average_views, predict_logits
from tenfold.training.networks.module import Network
from tenfold.training.recipe import Recipe

MOST_CACHED_BYTES = 2_000_000_000
BATCH_SIZE = 16
"""Images at a time, always as many: the bits of an image's features do not depend on those beside it."""
_DIGEST_BYTES = 16


def cached_features(
    network: Network,
    images: ImageTensor,
    normalization: Normalization,
    device_config: DeviceConfig,
    on_batch: OnBatch = lambda share: None,
    mirrored: bool = False,
) -> Tensor:
    """Inputs of the layer `head` for uint8 N×H×W×3, rounded to float16: float32 N×F, from the cache where they are.

    `mirrored`: those of the images' mirror images. `on_batch` gets the number of images that were done. A cache that
    cannot be read or written is done without.
    """
    folder = home() / "features" / _digest_network(network, tuple(images.shape[1:]), normalization, device_config)
    digests = np.concatenate([_digest_images(_turned(batch, mirrored)) for batch in images.split(BATCH_SIZE)])
    features = np.empty((len(images), network.get_submodule("head").get_parameter("weight").shape[1]), np.float16)
    known = _read(folder, digests, features)
    on_batch(int(known.sum()))
    missing = np.flatnonzero(~known)
    if len(missing):
        for some in np.array_split(missing, -(-len(missing) // BATCH_SIZE)):
            batch = _turned(images[torch.from_numpy(some)], mirrored)
            features[some] = _compute(network, batch, normalization, device_config)
            on_batch(len(some))
        _keep(folder, digests[missing], features[missing])
    return torch.from_numpy(features).float()


@torch.no_grad()
def cached_logits(
    network: Network,
    images: ImageTensor,
    normalization: Normalization,
    device_config: DeviceConfig,
    views: str = "one",
    tta_fraction: float = 1.0,
    on_batch: OnBatch = lambda share: None,
) -> Logits:
    """As `predict_logits`, by the head alone from `cached_features`: other runs on the same images have them already.

    They are rounded to float16, as those that the head was fitted to. Views that shift the image are not kept.
    """
    if any(shift for _, _, shift in VIEWS[views]):
        return predict_logits(network, images, normalization, device_config, views, tta_fraction, on_batch)
    head = network.get_submodule("head")

    def see(numbers: Tensor, view: View, tell: OnBatch) -> Tensor:
        some = images if len(numbers) == len(images) else rows_of(images, numbers.to(images.device))
        features = cached_features(network, some, normalization, device_config, tell, mirrored=view[1])
        logits: Tensor = head(features.to(device_config.device)).cpu()
        return logits

    return average_views(see, len(images), views, tta_fraction, on_batch)


def logits_for(recipe: Recipe) -> Callable[..., Logits]:
    """`cached_logits` for recipes whose networks differ in their heads only, else `predict_logits`."""
    return cached_logits if recipe.head_init == "logistic" and recipe.fine_tune == "off" else predict_logits


def _compute(network: Network, images: Tensor, normalization: Normalization, device_config: DeviceConfig) -> np.ndarray:
    """Features float16 of at most `BATCH_SIZE` images, computed in a batch of that size."""
    whole = images[torch.arange(BATCH_SIZE) % len(images)]
    features = extract_features(network, whole, normalization, device_config)
    return features[: len(images)].half().numpy()


def _turned(batch: Tensor, mirrored: bool) -> Tensor:
    """A batch, or its mirror images: batch by batch, since a copy of all would take as much memory as they do."""
    return batch.flip(2) if mirrored else batch


def _digest_images(images: Tensor) -> np.ndarray:
    pixels = images.cpu().contiguous().numpy()
    digests = [hashlib.sha256(image.data).digest()[:_DIGEST_BYTES] for image in pixels]
    return np.array(digests, f"V{_DIGEST_BYTES}")


def _digest_network(
    network: Network, shape: tuple[int, ...], normalization: Normalization, device_config: DeviceConfig
) -> str:
    """Of all but the images that features depend on: the weights but the head's, and how they are computed."""
    how = (torch.__version__, device_config.device.type, device_config.dtype_name, normalization)
    digest = hashlib.sha256(repr((how, shape, BATCH_SIZE, network)).encode())
    for name, tensor in network.state_dict().items():
        if not name.startswith("head."):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def _dtype(features: int) -> np.dtype:
    """Of a row in a file."""
    return np.dtype([("image", f"V{_DIGEST_BYTES}"), ("features", np.float16, (features,))])


def _read(folder: Path, digests: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Fill in the features that are kept; bool N, whether an image's were."""
    known, rows = np.zeros(len(digests), bool), [digest.tobytes() for digest in digests]
    for path in sorted(folder.glob("*.npy")):
        kept = _load(path, features.shape[1])
        if kept is None:
            continue
        places = {digest.tobytes(): place for place, digest in enumerate(kept["image"])}
        found = np.array([places.get(row, -1) for row in rows])
        here = np.flatnonzero((found >= 0) & ~known)
        if len(here):
            features[here], known[here] = kept["features"][found[here]], True
            with contextlib.suppress(OSError):
                os.utime(path)  # used last now
    return known


def _load(path: Path, features: int) -> np.ndarray | None:
    """The rows of a file; None for one that is damaged, or gone meanwhile."""
    try:
        rows: np.ndarray = np.load(path)
    except (OSError, ValueError, EOFError):
        return None
    sound = rows.dtype == _dtype(features) and rows.ndim == 1 and path.stem == _digest_rows(rows)
    return rows if sound else None


def _digest_rows(rows: np.ndarray) -> str:
    """What a file is called."""
    return hashlib.sha256(rows.tobytes()).hexdigest()[:32]


def _keep(folder: Path, digests: np.ndarray, features: np.ndarray) -> None:
    rows = np.empty(len(digests), _dtype(features.shape[1]))
    rows["image"], rows["features"] = digests, features
    try:
        with writing_home(), atomic_write(folder / f"{_digest_rows(rows)}.npy") as file:
            np.save(file, rows)
        _remove_oldest(folder.parent)
    except (OSError, StorageError):  # a full disk, a read-only home: they are computed again next time
        return


def _remove_oldest(folder: Path) -> None:
    """Keep what was used last, of all networks, up to `MOST_CACHED_BYTES`."""
    files = sorted(folder.rglob("*.npy"), key=lambda path: path.stat().st_mtime, reverse=True)
    total = 0
    for path in files:
        total += path.stat().st_size
        if total > MOST_CACHED_BYTES:
            path.unlink(missing_ok=True)
