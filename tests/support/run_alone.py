"""Runs without their data: folders of images that change, data made in Python, and plain PyTorch's answers."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tenfold.data.dataset import Dataset
from tenfold.data.shapes import make_shapes
from tenfold.training.device import DeviceConfig
from tenfold.training.run import Run

CLASSES = ("disk", "star", "bar")
CPU = DeviceConfig(torch.device("cpu"), torch.float32, 1, ())
ENV = {"seed": 0, "data": "mine", "device": "cpu", "dtype": "float32"}


def write_images(root: Path, dataset: Dataset) -> Path:
    for number, (pixels, label) in enumerate(zip(dataset.test.images, dataset.test.labels, strict=True)):
        if dataset.classes[label] in CLASSES:
            path = root / dataset.classes[label] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return root


# What may happen to a folder of images after training.


def gone(flowers: Path) -> None:
    shutil.rmtree(flowers)


def added(flowers: Path) -> None:
    Image.new("RGB", (32, 32), "red").save(flowers / "disk" / "new.png")


def new_class(flowers: Path) -> None:
    shutil.copytree(flowers / "disk", flowers / "plate")


def spoilt(flowers: Path) -> None:
    for path in flowers.rglob("*.png"):
        path.write_bytes(b"")


def replaced_by_a_file(flowers: Path) -> None:
    shutil.rmtree(flowers)
    flowers.write_text("moved to the other disk")


CHANGES = {
    gone: "synthetic images",
    replaced_by_a_file: "synthetic images",
    added: "other images",
    new_class: "synthetic images",
    spoilt: "synthetic images",
}


def torch_probabilities(run: Run, images: np.ndarray, temperature: float) -> np.ndarray:
    """By plain torch, float32."""
    model = run.load_model(CPU)
    pixels = (images / 255 - np.array(model.normalization.mean)) / np.array(model.normalization.std)
    with torch.no_grad():
        logits = model.network(torch.from_numpy(pixels).float().permute(0, 3, 1, 2))
    return torch.softmax(logits / temperature, dim=1).numpy()


def trained_label(probabilities: np.ndarray) -> str:
    return sorted(CLASSES)[int(probabilities.argmax())]


def make_mine(size: int = 16) -> Dataset:
    """Three classes of shapes of another size, which have no name that a command knows."""
    drawn = make_shapes(2, train=400, test=200, size=size)
    keep = [drawn.classes.index(name) for name in CLASSES]
    train, test = (part[np.flatnonzero(np.isin(part.labels, keep))] for part in (drawn.train, drawn.test))
    parts = [
        replace(part, labels=np.searchsorted(np.sort(keep), part.labels).astype(np.uint8)) for part in (train, test)
    ]
    return Dataset("mine", tuple(drawn.classes[label] for label in sorted(keep)), *parts)
