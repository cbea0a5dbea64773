"""Fingerprints: what a run's env.json keeps of its data, by which the same data are known again."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from tenfold.data import Dataset
from tenfold.data.dataset import Split

_SAMPLE = 200


def note_origin(dataset: Dataset) -> dict[str, Any]:
    """What env.json keeps of the data, so that `reload_dataset` finds it, and no other data of its name."""
    corrections = {"corrections": dataset.corrections.to_dict()} if dataset.corrections else {}
    found = {"folder": asdict(dataset.origin)} if dataset.origin else {"data_sha256": fingerprint(dataset)}
    return found | corrections


def fingerprint(dataset: Dataset) -> str:
    """SHA-256, in hexadecimal, of what tells data sets of one name apart: classes, labels, sizes and colours.

    The colours are rounded statistics of a sample, since drawn images may differ in a last bit between machines, and
    since this is taken before each training, where it costs milliseconds. Single changed images go unnoticed.
    """
    hashed = hashlib.sha256(json.dumps([*dataset.classes, dataset.val_size]).encode())
    for part in (dataset.train, dataset.test):
        hashed.update(json.dumps([part.images.shape, _colours(part)]).encode())
        hashed.update(part.labels.astype("<i8").tobytes())
        if part.weights is not None:
            hashed.update(part.weights.astype("<f8").tobytes())
        if part.groups is not None:
            hashed.update(json.dumps(part.groups.tolist()).encode())
    return hashed.hexdigest()


def _colours(part: Split) -> list[int]:
    """Mean and standard deviation of each channel over some of the images, as whole numbers in [0, 255]."""
    rows = np.linspace(0, len(part) - 1, min(len(part), _SAMPLE)).astype(int)
    pixels = part.images[rows].reshape(-1, 3).astype(np.float64)
    return [round(value) for value in (*pixels.mean(0), *pixels.std(0))] if len(pixels) else []


def is_own(env: Mapping[str, Any], dataset: Dataset) -> bool:
    """Whether a run of that environment was trained on `dataset`, as far as it noted: old runs noted the name only."""
    if "folder" in env:
        return dataset.origin is not None and dataset.origin.sha256 == env["folder"].get("sha256")
    noted = env.get("data_sha256")
    return dataset.name == env["data"] and noted in (None, fingerprint(dataset))


def have_same_data(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether runs of these environments were trained on the same data, as far as they noted: see `is_own`."""
    if "folder" in first or "folder" in second:
        return digest_of_data(first) == digest_of_data(second)
    noted = (digest_of_data(first), digest_of_data(second))
    return first["data"] == second["data"] and (None in noted or noted[0] == noted[1])


def digest_of_data(env: Mapping[str, Any]) -> str | None:
    """What a run noted of its data's content; None for old runs on data with a name."""
    found = env["folder"].get("sha256") if "folder" in env else env.get("data_sha256")
    return None if found is None else str(found)
