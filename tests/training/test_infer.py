"""Images to logits, against averages taken by hand over views made with NumPy."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tenfold.training import infer
from tenfold.training.augment import Normalization
from tenfold.training.device import DeviceConfig
from tenfold.training.infer import least_confident, predict_logits

CPU = DeviceConfig(torch.device("cpu"), torch.float32, 1, ())
PIXELS = Normalization((0.5, 0.4, 0.3), (0.25, 0.5, 0.75))
SIZE, CLASSES = 6, 4
WEIGHTS = {
    "one": {(False, 0): 1.0},
    "mirror": {(False, 0): 0.5, (True, 0): 0.5},
    "six": {(m, s): 0.125 if s else 0.25 for m in (False, True) for s in (-1, 0, 1)},
}


class Linear(nn.Module):
    """Logits that are a matrix times the pixels, so that every one can be worked out in NumPy; notes its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(CLASSES, 3 * SIZE * SIZE, generator=torch.Generator().manual_seed(0)))
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training and not torch.is_grad_enabled()
        self.batches.append(len(x))
        return x.flatten(1) @ self.matrix.T


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (25, SIZE, SIZE, 3), dtype=np.uint8)


def logits_by_hand(model: Linear, images: np.ndarray, mirrored: bool, shift: int) -> np.ndarray:
    seen = images[:, :, ::-1] if mirrored else images
    padded = np.pad(seen, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    seen = padded[:, 1 + shift : 1 + shift + SIZE, 1 + shift : 1 + shift + SIZE]
    scaled = (seen / 255 - np.array(PIXELS.mean)) / np.array(PIXELS.std)
    return scaled.transpose(0, 3, 1, 2).reshape(len(images), -1) @ model.matrix.detach().double().numpy().T


@pytest.mark.parametrize("views", WEIGHTS)
def test_views_are_averaged_with_their_weights(images: np.ndarray, views: str) -> None:
    model = Linear()
    single, averaged = predict_logits(model, torch.from_numpy(images), PIXELS, CPU, views)
    expected = sum(weight * logits_by_hand(model, images, *view) for view, weight in WEIGHTS[views].items())
    np.testing.assert_allclose(single, logits_by_hand(model, images, False, 0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(averaged, expected, rtol=1e-4, atol=1e-4)
    assert single.dtype == averaged.dtype == torch.float32


def test_only_the_unsure_share_sees_more_views(images: np.ndarray) -> None:
    model = Linear()
    single, all_views = predict_logits(model, torch.from_numpy(images), PIXELS, CPU, "six")
    _, some = predict_logits(model, torch.from_numpy(images), PIXELS, CPU, "six", tta_fraction=0.4)
    best = np.sort(single.numpy(), axis=1)
    unsure = np.argsort(best[:, -1] - best[:, -2])[:10]  # 40 % of 25
    is_unsure = np.isin(np.arange(25), unsure)
    torch.testing.assert_close(some[is_unsure], all_views[is_unsure])
    assert torch.equal(some[~is_unsure], single[~is_unsure])
    assert model.batches == [25] * 6 + [25] + [10] * 5


def test_no_image_is_unsure_at_share_zero(images: np.ndarray) -> None:
    single, averaged = predict_logits(Linear(), torch.from_numpy(images), PIXELS, CPU, "six", tta_fraction=0.0)
    assert torch.equal(single, averaged)


def test_the_unsure_have_the_smallest_gaps() -> None:
    logits = torch.tensor([[0.0, 5, 1], [3, 2.9, 0], [1, 1, 9], [2, 2, 2]])  # gaps 4, 0.1, 8, 0
    assert least_confident(logits, 0.5).tolist() == [1, 3]
    assert least_confident(logits, 0.75).tolist() == [0, 1, 3]
    assert least_confident(logits, 1.0).tolist() == [0, 1, 2, 3]
    assert least_confident(torch.zeros(4, 3), 0.5).tolist() == [0, 1]  # of equals, the first


@pytest.mark.parametrize("size", [1, 7, 24])
def test_how_images_are_batched_changes_nothing(images: np.ndarray, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    whole = predict_logits(Linear(), torch.from_numpy(images), PIXELS, CPU, "six")
    monkeypatch.setattr(infer, "BATCH_SIZE", size)
    parts = predict_logits(Linear(), torch.from_numpy(images), PIXELS, CPU, "six")
    torch.testing.assert_close(parts, whole)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_keeps_its_mode(images: np.ndarray, training: bool) -> None:
    model = Linear().train(training)
    predict_logits(model, torch.from_numpy(images), PIXELS, CPU)
    assert model.training is training


def test_the_model_keeps_its_mode_when_it_fails() -> None:
    model = Linear().train()
    with pytest.raises(RuntimeError):
        predict_logits(model, torch.zeros(2, SIZE + 1, SIZE, 3, dtype=torch.uint8), PIXELS, CPU)
    assert model.training


def test_logits_of_a_bfloat16_plan_are_float32(images: np.ndarray) -> None:
    device_config = DeviceConfig(torch.device("cpu"), torch.bfloat16, 1, ())
    model = Linear()
    single, _ = predict_logits(model, torch.from_numpy(images), PIXELS, device_config)
    assert single.dtype == torch.float32
    expected = logits_by_hand(model, images, False, 0)
    assert 1e-6 < np.abs(single.numpy() - expected).max() < 0.02 * np.abs(expected).max()
