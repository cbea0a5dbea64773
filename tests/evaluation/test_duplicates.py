"""Copies planted among drawn clouds are found, and nothing else is: shapes are too few to differ from each other."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from tenfold.evaluation.corrupt import draw_plasma
from tenfold.evaluation.duplicates import embed, find_duplicates, score_pairs
from tenfold.training.augment import Normalization
from tenfold.training.device import DeviceConfig
from tenfold.training.model import build
from tenfold.training.networks import WhitenedSpec
from tenfold.training.weights import Model

CPU = DeviceConfig(torch.device("cpu"), torch.float32, 1, ())
EACH = 40


def reencode(image: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=75)
    return np.asarray(Image.open(file))


def shift(image: np.ndarray) -> np.ndarray:
    return np.pad(image, ((2, 0), (0, 1), (0, 0)), mode="reflect")[:-2, 1:]


def brighten(image: np.ndarray) -> np.ndarray:
    return np.clip(0.8 * image.astype(float) + 50, 0, 255).astype(np.uint8)


PLANTED: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "same": (lambda image: image, "duplicate"),
    "re-encoded": (reencode, ""),  # of either kind: JPEG is hard on clouds
    "brightened": (brighten, "duplicate"),
    "shifted": (shift, "near duplicate"),
    "mirrored": (lambda image: image[:, ::-1], "near duplicate"),
}


def draw_clouds(count: int, size: int, seed: int) -> np.ndarray:
    """Colours and clouds, as different from each other as photographs: uint8 N×S×S×3."""
    rng = np.random.default_rng(seed)
    light, *tints = (draw_plasma(rng, count, size, 1.4) for _ in range(4))
    return (np.stack([0.8 * light + 0.2 * tint for tint in tints], axis=-1) * 255).astype(np.uint8)


@pytest.mark.parametrize("size", [32, 48])
def test_planted_copies_are_found_and_nothing_else(size: int) -> None:
    """With a network that nobody trained: recall and precision of each kind of copy."""
    train, others = draw_clouds(600, size, seed=0), draw_clouds(300, size, seed=1)
    copies = [change(train[40 * row + k]) for row, (change, _) in enumerate(PLANTED.values()) for k in range(EACH)]
    test = np.concatenate((np.stack(copies), others))
    torch.manual_seed(0)
    model = Model(
        build(WhitenedSpec(widths=(16, 32)), size=size),
        tuple("abcdefghij"),
        size,
        Normalization((0.5,) * 3, (0.25,) * 3),
    )
    features = [embed(model, torch.from_numpy(images), CPU) for images in (test, train)]
    assert features[0].norm(dim=1) == pytest.approx(np.ones(len(test)), abs=1e-5)
    pairs = {pair.test: pair for pair in find_duplicates(test, train, *features)}
    wrong = [pair for pair in pairs.values() if pair.test != pair.train]  # the first 200 are copies of the first 200
    assert len(wrong) <= 2, wrong
    for row, (name, (_, kind)) in enumerate(PLANTED.items()):
        found = [pairs[n] for n in range(EACH * row, EACH * (row + 1)) if n in pairs]
        assert len(found) >= 0.95 * EACH, f"{name}: {len(found)} of {EACH}"
        assert [pair.kind for pair in found].count(kind) >= 0.9 * len(found) or not kind, name
        assert sum(pair.mirrored for pair in found) >= 0.9 * len(found) if name == "mirrored" else True


def test_scores_by_numpys_correlation() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=(12, 12)) * 50
    second = np.roll(first, (1, 0), axis=(0, 1)) + rng.normal(size=(12, 12)) * 20
    best, in_place = score_pairs(*(torch.tensor(x[None], dtype=torch.float32) for x in (first, second)))

    def score(window: np.ndarray) -> float:
        inner, slopes = first[1:-1, 1:-1], []
        for image in (inner, window):
            slopes.append(np.concatenate([np.diff(image, axis=0)[:, :-1].ravel(), np.diff(image, axis=1)[:-1].ravel()]))
        return float(np.corrcoef(inner.ravel(), window.ravel())[0, 1] + np.corrcoef(*slopes)[0, 1]) / 2

    scores = {(i, j): score(second[i : i + 10, j : j + 10]) for i in range(3) for j in range(3)}
    assert float(best) == pytest.approx(max(scores.values()), abs=1e-5) == pytest.approx(scores[2, 1], abs=1e-5)
    assert float(in_place) == pytest.approx(scores[1, 1], abs=1e-5)


def test_flat_images_are_no_copies_of_each_other() -> None:
    flat = torch.full((1, 32, 32), 200.0)
    assert [float(score) for score in score_pairs(flat, flat + 20)] == [0.0, 0.0]


def test_the_very_same_pixels_are_copies_also_of_one_colour() -> None:
    """Scores know nothing of flat images."""
    train = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (10, 200, 90, 200)])
    (pair,) = find_duplicates(train[1:2], train, torch.ones(1, 2), torch.ones(4, 2))
    assert (pair.test, pair.train, pair.kind, pair.score) == (0, 1, "duplicate", 1.0)
