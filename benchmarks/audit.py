"""What the audit finds of what was planted in CIFAR-10: copies and wrong labels.

    python benchmarks/audit.py RUN [--only copies|labels]

RUN is a run directory on CIFAR-10, whose features the search for copies uses. docs/guides/audit.md has the figures.
"""

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

import tenfold
from tenfold.data.dataset import Split
from tenfold.evaluation.duplicates import embed, find_duplicates
from tenfold.evaluation.labels import find_issues, predict_out_of_fold, recipe_for
from tenfold.training.device import select_device
from tenfold.training.run import Run
from tenfold.training.trainer import to_tensors

EACH, TRAIN, OTHERS = 200, 20_000, 1_000
LABELLED, FLIPPED = 10_000, 0.05
Change = Callable[[np.ndarray], np.ndarray]


def reencode(quality: int) -> Change:
    def change(image: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file))

    return change


def shift(rows: int, columns: int) -> Change:
    return lambda image: np.pad(image, ((rows, 0), (columns, 0), (0, 0)), mode="reflect")[:32, :32]


def brighten(image: np.ndarray) -> np.ndarray:
    return np.clip(0.8 * image.astype(float) + 50, 0, 255).astype(np.uint8)


CHANGES: dict[str, Change] = {
    "JPEG 90": reencode(90),
    "JPEG 75": reencode(75),
    "shifted by (1, 2)": shift(1, 2),
    "shifted by (3, 3)": shift(3, 3),
    "mirrored": lambda image: image[:, ::-1],
    "brightened, less contrast": brighten,
    "mirrored, shifted, JPEG 75": lambda image: reencode(75)(np.ascontiguousarray(shift(1, 2)(image)[:, ::-1])),
}


def plant_copies(run: Path) -> None:
    """Change 200 training images in each way, hide them among test images, and count which are found."""
    dataset, device_config = tenfold.load("cifar10"), select_device()
    model = Run.open(run).load_model(device_config)
    train = np.asarray(dataset.train.images[:TRAIN])
    copies = [change(train[EACH * row + k]) for row, change in enumerate(CHANGES.values()) for k in range(EACH)]
    test = np.concatenate((np.stack(copies), dataset.test.images[:OTHERS]))
    parts = [Split(images, np.zeros(len(images), np.uint8)) for images in (test, train)]
    features = [embed(model, to_tensors(part)[0], device_config) for part in parts]
    found = {pair.test: pair for pair in find_duplicates(test, train, *features)}
    for row, name in enumerate(CHANGES):
        pairs = [found[n] for n in range(EACH * row, EACH * (row + 1)) if n in found]
        right, same = sum(pair.test == pair.train for pair in pairs), sum(pair.kind == "duplicate" for pair in pairs)
        print(f"{name}: recall {right / EACH:.1%}, precision {right / len(pairs):.1%}; {same} called duplicates")
    others = sum(n >= len(copies) for n in found)
    print(f"of {OTHERS:,} test images as they are, {others} look like one of {TRAIN:,} training images")


def plant_errors() -> None:
    """Turn 5 % of 10,000 training labels into others at random, and count which are suspected."""
    train, rng = tenfold.load("cifar10").train, np.random.default_rng(0)
    labels = np.array(train.labels[:LABELLED])
    flipped = rng.choice(LABELLED, round(FLIPPED * LABELLED), replace=False)
    labels[flipped] = (labels[flipped] + rng.integers(1, 10, len(flipped))) % 10
    part = Split(np.array(train.images[:LABELLED]), labels)
    predicted = predict_out_of_fold(part, 10, select_device(), recipe_for(part))
    planted = np.isin([issue.index for issue in find_issues(labels, predicted)], flipped)
    print(f"recall {planted.sum() / len(flipped):.1%}, precision {planted.mean():.1%} of {len(planted):,} suspected")
    for first in (100, 250, 500):
        print(f"of the first {first}: {planted[:first].mean():.1%} planted")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--only", choices=("copies", "labels"))
    asked = parser.parse_args()
    if asked.only != "labels":
        plant_copies(asked.run)
    if asked.only != "copies":
        plant_errors()
