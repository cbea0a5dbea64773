"""What training on large images is about to cost is said before it begins, and where the memory is too small."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tenfold.data.dataset import Dataset, Split
from tenfold.machine import free_memory
from tenfold.training import estimate
from tenfold.training.device import DeviceConfig
from tenfold.training.estimate import Cost, announce, measure_cost
from tenfold.training.networks import WhitenedSpec
from tenfold.training.recipes import FAST89
from tenfold.training.trainer import Trainer

CPU = DeviceConfig(torch.device("cpu"), torch.float32, 1, ())


def trainer(size: int) -> Trainer:
    """For 40 images in batches of 10, two epochs."""
    images = np.random.default_rng(0).integers(0, 256, (40, size, size, 3), np.uint8)
    train = Split(images, np.arange(40, dtype=np.uint8) % 2)
    network = WhitenedSpec(widths=(2, 2, 2), whitening_pairs=2)
    recipe = replace(FAST89.with_epochs(2), network=network, batch_size=10, low_res_fraction=0.0)
    return Trainer(recipe, Dataset("noise", ("a", "b"), train, train[:0]), device=CPU)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of known cost on a machine of known memory: 3 GB are held, 4 GB are free beside them."""
    monkeypatch.setattr(estimate, "measure_cost", lambda trainer: Cost(0.5, 200_000_000))
    monkeypatch.setattr(estimate, "peak_memory", lambda: 3_000_000_000)
    monkeypatch.setattr(estimate, "free_memory", lambda: 4_000_000_000)


@pytest.mark.usefixtures("counted")
def test_training_on_large_images_is_announced(capsys: pytest.CaptureFixture[str]) -> None:
    """8 steps of 10 images of half a second; 3 GB, and 10 times 0.2."""
    announce(trainer(65))
    assert capsys.readouterr().err == "training: 80 passes of an image, about 40 s and 5.0 GB of memory\n"
    announce(trainer(64))
    assert capsys.readouterr().err == ""  # as many as recipes are made for are trained at once


@pytest.mark.usefixtures("counted")
def test_shrunk_images_cost_less(capsys: pytest.CaptureFixture[str]) -> None:
    """Half of the 8 steps see images of a quarter of the side: 4 + 4/16 steps of 5 s."""
    announce(_shrinking())
    assert "80 passes of an image, about 21 s" in capsys.readouterr().err


def _shrinking() -> Trainer:
    made = trainer(96)
    recipe = replace(made.recipe, low_res_fraction=0.5, low_res_size=24)
    return Trainer(recipe, made.data, device=CPU)


@pytest.mark.usefixtures("counted")
def test_what_the_memory_is_too_small_for_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "free_memory", lambda: 1_900_000_000)
    announce(trainer(128))
    assert (
        "training takes about 5.0 GB of memory, and 4.9 are there: --size brings the images to fewer pixels, "
        "and a recipe's batch_size takes fewer at a time"
    ) in capsys.readouterr().err


class Squares(nn.Module):
    """Its backward pass needs its input, and next to nothing else."""

    def forward(self, x: Tensor) -> Tensor:
        return x.square().mean((2, 3))[:, :2]


def test_what_is_kept_for_the_backward_pass_is_counted() -> None:
    made = trainer(65)
    made.network = Squares()  # type: ignore[assignment]
    made.normalization = _Tracked()  # type: ignore[assignment]
    cost = measure_cost(made)
    pixels = 3 * 65 * 65 * 4
    assert pixels <= cost.bytes < 1.01 * pixels and cost.seconds > 0


class _Tracked:
    def normalize(self, images: Tensor) -> Tensor:
        return images.float().permute(0, 3, 1, 2).requires_grad_()


def test_a_copy_is_measured() -> None:
    """The network's weights and the statistics of its norms stay."""
    made = trainer(65)
    before = {name: tensor.clone() for name, tensor in made.network.state_dict().items()}
    measure_cost(made)
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.network.state_dict().items())
    assert all(parameter.grad is None for parameter in made.network.parameters())


def test_there_is_free_memory() -> None:
    assert free_memory() > 10_000_000
