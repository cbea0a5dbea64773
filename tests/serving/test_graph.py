"""The ONNX graph against the network it is made from: all kinds of layers, sizes and batch sizes."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from tenfold.errors import ModelError
from tenfold.serving.graph import separate_pools, to_onnx
from tenfold.training.augment import Normalization
from tenfold.training.networks import WhitenedSpec
from tenfold.training.recipes import REFERENCE
from tests.support.networks import PIXELS, make_network


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["probabilities"], {"images": images})[0])


@pytest.mark.parametrize(
    ("spec", "normalization", "classes", "size", "temperature"),
    [
        (WhitenedSpec(widths=(16, 32)), PIXELS, 10, 32, 1.0),
        (
            WhitenedSpec(
                widths=(8, 8, 8),
                depth=3,
                residual=True,
                whitening=2,
                whitening_pairs=4,
                stride=2,
                first_activation="relu",
            ),
            PIXELS,
            3,
            48,
            2.5,
        ),
        (REFERENCE.network, Normalization(), 2, 64, 0.25),
    ],
    ids=["whitened", "strided", "reference"],
)
def test_graph_and_network_say_the_same(
    spec: WhitenedSpec, normalization: Normalization, classes: int, size: int, temperature: float
) -> None:
    network = make_network(spec, classes, size)
    model = to_onnx(network, normalization, classes, size, temperature)
    onnx.checker.check_model(model, full_check=True)
    rng = np.random.default_rng(0)
    for count in (1, 5):
        images = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
        scaled = (images / 255 - np.array(normalization.mean)) / np.array(normalization.std)
        with torch.no_grad():
            logits = network(torch.from_numpy(scaled).float().permute(0, 3, 1, 2))
        expected = torch.softmax(logits / temperature, dim=1).numpy()
        answers = run(model, images)
        assert answers.shape == (count, classes) and answers.dtype == np.float32
        assert expected.max(1).min() > 0.01  # the comparison is of something
        np.testing.assert_allclose(answers, expected, atol=2e-5)


def test_norms_are_gone() -> None:
    """Without folding, a norm stays as a product and a sum: 4 more nodes in each of two groups."""
    model = to_onnx(make_network(WhitenedSpec(widths=(8, 8)), 10, 32), PIXELS, 10, 32)
    kinds = [node.op_type for node in model.graph.node]
    group = ["Conv", "MaxPool", "Gelu", "Conv", "Gelu"]
    before, after = ["Transpose", "Cast", "Mul", "Add", "Conv", "Gelu"], ["GlobalMaxPool", "Flatten", "Gemm", "Mul"]
    assert kinds == [*before, *group, *group, *after, "Softmax"]


def test_a_pool_over_single_pixels_stands_before_each_gelu_behind_a_pool() -> None:
    """It changes no answer; activations that never fall need none."""
    network = to_onnx(make_network(WhitenedSpec(widths=(8,)), 10, 32), PIXELS, 10, 32)
    separated = separate_pools(network)
    onnx.checker.check_model(separated, full_check=True)
    kinds = [node.op_type for node in separated.graph.node]
    assert kinds[5:11] == ["Gelu", "Conv", "MaxPool", "MaxPool", "Gelu", "Conv"]
    images = np.random.default_rng(2).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(run(separated, images), run(network, images))
    reference = to_onnx(make_network(REFERENCE.network, 2, 64), Normalization(), 2, 64)
    assert "MaxPool" in {node.op_type for node in reference.graph.node} and separate_pools(reference) == reference


def test_a_norm_with_a_negative_scale_stays_after_its_pool() -> None:
    """Folded into the convolution it would turn the largest pixel of a patch into the smallest."""
    network = make_network(WhitenedSpec(widths=(8,)), 4, 16)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -2, -1)
    images = np.random.default_rng(1).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = torch.softmax(network(PIXELS.normalize(torch.from_numpy(images))), dim=1).numpy()
    np.testing.assert_allclose(run(to_onnx(network, PIXELS, 4, 16), images), expected, atol=2e-5)


class Odd(nn.Module):
    """A network with a step of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft(x).real


def test_an_unknown_step_is_named() -> None:
    with pytest.raises(ModelError, match=r"fft.* which this version knows no ONNX"):
        to_onnx(Odd().eval(), PIXELS, 10, 32)


def test_the_filters_are_those_of_the_network_times_the_norm() -> None:
    """By hand, for the first convolution of the only group."""
    network = make_network(replace(WhitenedSpec(), widths=(8,)), 10, 32)
    model = to_onnx(network, PIXELS, 10, 32)
    state = network.state_dict()
    scale = 1 / torch.sqrt(state["groups.0.norms.0.running_var"] + 1e-12)
    numbers = {number.name: onnx.numpy_helper.to_array(number) for number in model.graph.initializer}
    weight = state["groups.0.convs.0.weight"] * scale[:, None, None, None]
    bias = state["groups.0.norms.0.bias"] - state["groups.0.norms.0.running_mean"] * scale
    np.testing.assert_allclose(numbers["groups_0_convs_0.weight"], weight, rtol=1e-6)
    np.testing.assert_allclose(numbers["groups_0_convs_0.bias"], bias, rtol=1e-5)
