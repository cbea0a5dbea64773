"""Drawn shapes: the same for the same seed, balanced, and as large as geometry says."""

import subprocess
import sys

import numpy as np
import pytest

from tenfold import data
from tenfold.data import shapes
from tenfold.data.shapes import make_shapes
from tenfold.errors import UsageError

# Areas worked out by hand, in units of the shape's squared radius.
SECTOR = np.pi / 5
AREAS = {
    "disk": np.pi * 0.9**2,
    "ring": np.pi * (0.93**2 - 0.57**2),
    "square": 1.4**2,
    "frame": 1.42**2 - 0.86**2,
    "bar": 1.94 * 0.44,
    "cross": 2 * 1.94 * 0.44 - 0.44**2,
    "triangle": 3 * np.sqrt(3) * 0.5**2,  # equilateral, inscribed radius 0.5
    "star": 10 * 0.5 * 1 * 0.45 * np.sin(SECTOR),  # ten triangles from the centre
    "heart": 1.04**2 + np.pi * 0.52**2,  # a square and two half disks on its sides
}


def test_same_seed_same_bytes() -> None:
    first, again, other = make_shapes(3, 50, 20), make_shapes(3, 50, 20), make_shapes(4, 50, 20)
    np.testing.assert_array_equal(first.train.images, again.train.images)
    np.testing.assert_array_equal(first.test.labels, again.test.labels)
    assert (first.train.images != other.train.images).any()
    assert (first.train.images[:20] != first.test.images).any()


def test_counts_and_order() -> None:
    dataset = make_shapes(train=1_003, test=100)
    assert dataset.train.images.shape == (1_003, 32, 32, 3)
    assert dataset.train.labels.dtype == np.uint8
    assert sorted(np.bincount(dataset.train.labels)) == [100] * 7 + [101] * 3
    assert np.bincount(dataset.test.labels).tolist() == [10] * 10
    assert (np.diff(dataset.train.labels.astype(int)) != 0).mean() > 0.8


def test_sizes_other_than_32() -> None:
    for size in (8, 28, 64):
        assert make_shapes(train=20, test=10, size=size).train.images.shape == (20, size, size, 3)


@pytest.mark.parametrize("name", AREAS)
def test_area(name: str) -> None:
    """The share of points of negative distance, against the area worked out by hand."""
    y, x = np.mgrid[-1.25:1.25:1000j, -1.25:1.25:1000j]
    distance = shapes._DISTANCES[name](x, y)
    assert (distance < 0).mean() * 2.5**2 == pytest.approx(AREAS[name], rel=0.01)


@pytest.mark.parametrize("name", shapes._DISTANCES)
def test_shape_is_within_its_circle(name: str) -> None:
    y, x = np.mgrid[-2:2:400j, -2:2:400j]
    inside = shapes._DISTANCES[name](x, y) < 0
    assert inside.any()
    assert np.hypot(x, y)[inside].max() < 1.05


def test_contrast() -> None:
    """In every image and channel, the shape's mean and the background's are at least a tenth of the range apart."""
    images = shapes._draw_split(np.random.default_rng(0), 500, 32).images
    rng = np.random.default_rng(0)  # drawn from in the same order, it gives the same places
    distances = shapes._distances(rng, rng.permutation(np.arange(500) % 10).astype(np.uint8), 32)
    gaps = [
        np.abs(image[distance < -0.5].mean(axis=0) - image[distance > 0.5].mean(axis=0)).min()
        for image, distance in zip(images, distances, strict=True)
    ]
    assert min(gaps) > 25


def test_importing_is_light() -> None:
    """What only fetching needs is imported by fetching."""
    heavy = {"torch", "pandas", "PIL", "pyarrow", "filelock", "urllib.request"}
    code = f"import sys, tenfold.data; print({heavy} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "set()\n"


def test_names() -> None:
    assert data.load("shapes").classes[:2] == ("disk", "ring")
    with pytest.raises(UsageError, match="unknown data set 'cifar11'; known are cifar10, shapes"):
        data.load("cifar11")
    for action in (data.get, data.remove):
        with pytest.raises(UsageError, match="generated whenever it is needed"):
            action("shapes")
