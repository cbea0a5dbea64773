"""The synthetic images that an export is checked on where there are no others."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tenfold.errors import ModelError
from tenfold.serving import export as exporting
from tenfold.serving.export import export, read_source
from tenfold.serving.predictor import open_model
from tenfold.serving.synthetic import synthetic_images
from tenfold.training.augment import Normalization
from tenfold.training.run import Run

SYNTHETIC_MEANS = [
    [130.72, 137.65, 136.72, 132.62, 138.21, 137.28, 129.09, 135.27, 134.64, 129.21, 134.8, 134.47],
    [130.36, 122.1, 117.36, 131.22, 123.88, 118.28, 129.28, 123.33, 117.06, 129.59, 122.21, 117.14],
    [123.57, 127.17, 123.75, 124.46, 128.0, 124.99, 123.87, 127.31, 124.75, 125.13, 127.58, 125.16],
    [124.14, 123.57, 123.16, 124.59, 124.14, 124.09, 122.62, 122.43, 121.64, 121.7, 121.57, 120.94],
    [124.75, 126.55, 127.36, 129.81, 122.32, 125.44, 133.49, 125.86, 126.88, 128.46, 127.58, 129.56],
]
"""Of each hundred images: mean red, green and blue of the upper left, upper right, lower left and lower right."""


def test_synthetic_images_are_always_the_same_and_of_any_size() -> None:
    """As they were on 2026-11-29: what a file was checked on is known.

    Where a CPU rounds otherwise, a value differs by 1 here and there: not the mean of 25,600 by 0.02.
    """
    images = synthetic_images(32)
    assert images.dtype == np.uint8 and images.shape == (500, 32, 32, 3)
    quarters = images.reshape(5, 100, 2, 16, 2, 16, 3).mean(axis=(1, 3, 5)).reshape(5, 12)
    np.testing.assert_allclose(quarters, SYNTHETIC_MEANS, atol=0.02)
    assert len(np.unique(images.reshape(500, -1), axis=0)) == 500
    for size in (1, 13, 160):
        assert synthetic_images(size).shape[1:] == (size, size, 3)
    assert 32 <= len(synthetic_images(160)) < 500


WRONG: dict[str, Callable[[Any, Any], tuple[Any, Any, float]]] = {
    "temperature": lambda network, normalization: (network, normalization, 1.05),
    "normalisation": lambda network, normalization: (
        network,
        Normalization(normalization.mean, tuple(1.05 * x for x in normalization.std)),
        1.0,
    ),
    "mean": lambda network, normalization: (
        network,
        Normalization(tuple(x + 0.01 for x in normalization.mean), normalization.std),
        1.0,
    ),
    "colours": lambda network, normalization: (
        network,
        Normalization(normalization.mean[::-1], normalization.std[::-1]),
        1.0,
    ),
    "bias": lambda network, normalization: (scaled(network, "groups.2.norms.1.bias", 0.0), normalization, 1.0),
    "norm": lambda network, normalization: (scaled(network, "groups.1.norms.1.running_var"), normalization, 1.0),
    "filters": lambda network, normalization: (scaled(network, "groups.0.convs.0.weight"), normalization, 1.0),
}


def scaled(network: torch.nn.Module, name: str, factor: float = 1.05) -> torch.nn.Module:
    with torch.no_grad():
        network.state_dict()[name].mul_(factor)  # it shares the network's memory
    return network


@pytest.mark.parametrize("what", WRONG)
def test_a_graph_that_is_a_little_wrong_shows_on_them(
    mine_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    right = exporting.to_onnx

    def wrong(network: Any, normalization: Any, classes: int, size: int, temperature: float, **more: Any) -> Any:
        network, normalization, factor = WRONG[what](network, normalization)
        return right(network, normalization, classes, size, temperature * factor, **more)

    monkeypatch.setattr(exporting, "to_onnx", wrong)
    with pytest.raises(ModelError, match="not exported: the file would differ from the network"):
        export(Run.open(mine_run), tmp_path / "x.onnx")


def test_on_them_a_network_gives_varied_answers_and_is_often_unsure(mine_run: Path) -> None:
    """Else a wrong temperature, or a class that is never named, would not show."""
    expected = read_source(Run.open(mine_run)).expected
    assert set(expected.argmax(1)) == {0, 1, 2}
    assert (expected.max(1) < 0.95).mean() > 0.2
    bundled = open_model().predict(synthetic_images(32))
    assert len(set(bundled.argmax(1))) >= 8 and (bundled.max(1) < 0.95).mean() > 0.5


def test_classes_that_tie_are_equally_good_first_guesses() -> None:
    """A network that learned nothing answers the same to all: the order of sums decides, and must not end a run."""
    expected = np.full((100, 4), 0.25, np.float32)
    answers = expected.copy()
    answers[:, 3] += 1e-7
    exporting.check(answers, expected)
    answers[:, 3] += 5e-4
    expected[:, 0] += 2e-4
    with pytest.raises(ModelError, match=r"agree on 0\.00% of the images"):
        exporting.check(answers, expected)
