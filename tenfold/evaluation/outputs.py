"""What a network says of a set of images, computed once: the run directory keeps it in `logits/`.

A kept file is used again only where all that it depends on is the same: weights, views, pixels, device, number format
and version of torch.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch

from tenfold.console import log_info, progress
from tenfold.data.dataset import Split
from tenfold.data.stored import hash_pixels
from tenfold.errors import ModelError
from tenfold.training.device import DeviceConfig
from tenfold.training.feature_cache import logits_for
from tenfold.training.images import as_images
from tenfold.training.recipe import Recipe
from tenfold.training.run import Run
from tenfold.training.weights import DESCRIPTION, WEIGHTS, Model

FOLDER = "logits"


@dataclass(frozen=True)
class LogitsCache:
    """Logits, float32 N×K, of a single view and averaged over the recipe's test-time views; labels int64 N.

    key: what the logits depend on. fresh: whether they were computed now, not read from the run directory.
    """

    single: np.ndarray
    averaged: np.ndarray
    labels: np.ndarray
    key: dict[str, Any]
    fresh: bool


def load_or_compute(run: Run, model: Model, part: Split, device_config: DeviceConfig, name: str) -> LogitsCache:
    """Read what the run directory keeps under `name` (`test`, `val`), or compute it; nothing is written."""
    recipe = run.recipe
    key = _key(run, recipe, part, device_config)
    labels = part.labels.astype(np.int64)
    kept = _read(run, name, key)
    if kept:
        return LogitsCache(*kept, labels, key, fresh=False)
    images = as_images(part.images)
    with progress(f"scoring {name} images", len(images)) as bar:
        logits = logits_for(recipe)(
            model.network, images, model.normalization, device_config, recipe.tta, recipe.tta_fraction, on_batch=bar
        )
    return LogitsCache(logits.single.numpy(), logits.averaged.numpy(), labels, key, fresh=True)


def kept_outputs(run: Run, name: str, labels: np.ndarray) -> LogitsCache | None:
    """What the run directory keeps under `name`, whatever images it is of, or None where it is not of these weights.

    labels: int64 N, the images' true classes, which the caller knows from elsewhere. Raises `ModelError` for damage.
    """
    relative, recipe = f"{FOLDER}/{name}.safetensors", run.recipe
    if run.digest(relative) is None:
        return None
    run.verify(relative)
    key, wanted = _key_in(run.path / relative), _model_key(run, recipe)
    tensors = safetensors.numpy.load((run.path / relative).read_bytes())
    if not isinstance(key, dict) or key | wanted != key or len(tensors["single"]) != len(labels):
        return None
    return LogitsCache(tensors["single"], tensors["averaged"], labels, key, fresh=False)


def digest_of_images(part: Split) -> str:
    """SHA-256 of the pixels, in hexadecimal, as `digest_of_kept_images` has it."""
    return hash_pixels(part.images).hexdigest()


def digest_of_kept_images(run: Run, name: str) -> str | None:
    """SHA-256 of the images whose logits the run keeps under `name`; None where it keeps none. Raises `ModelError`."""
    relative = f"{FOLDER}/{name}.safetensors"
    if run.digest(relative) is None:
        return None
    run.verify(relative)
    key = _key_in(run.path / relative)
    return key.get("images") if isinstance(key, dict) else None


def to_file(outputs: LogitsCache, name: str) -> tuple[str, bytes]:
    """The file of the run directory that keeps these logits under `name`: its path in there, and its bytes."""
    tensors = {"single": outputs.single, "averaged": outputs.averaged}
    return f"{FOLDER}/{name}.safetensors", safetensors.numpy.save(tensors, {"tenfold": json.dumps(outputs.key)})


def _model_key(run: Run, recipe: Recipe) -> dict[str, Any]:
    """The part of the key that does not depend on images or machine."""
    return {
        "weights": run.digest(WEIGHTS),
        "model": run.digest(DESCRIPTION),
        "views": recipe.tta,
        "tta_fraction": recipe.tta_fraction,
    }


def _key(run: Run, recipe: Recipe, part: Split, device_config: DeviceConfig) -> dict[str, Any]:
    return _model_key(run, recipe) | {
        "images": digest_of_images(part),
        "shape": list(part.images.shape),
        "device": device_config.device.type,
        "dtype": device_config.dtype_name,
        "torch": torch.__version__,
    }


def _read(run: Run, name: str, key: dict[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """The kept logits, single and averaged, or None where there are none for this key, or none that are sound."""
    relative = f"{FOLDER}/{name}.safetensors"
    path = run.path / relative
    if not path.is_file():
        return None
    try:
        run.verify(relative)
    except ModelError as error:
        log_info(f"{error}; computed again")
        return None
    if _key_in(path) != key:
        return None
    tensors = safetensors.numpy.load(path.read_bytes())
    return tensors["single"], tensors["averaged"]


def _key_in(path: Path) -> Any:
    with safetensors.safe_open(path, "np") as file:
        return json.loads((file.metadata() or {}).get("tenfold", "null"))
