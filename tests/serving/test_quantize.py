"""Graphs in 8 bits: what rounding adds on average is taken out, and a clip is the range of what it clips."""

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn

from tenfold.serving import quantize as quantizing
from tenfold.serving.graph import INPUT, to_onnx
from tenfold.serving.quantize import _mean_output, quantize
from tenfold.training.augment import Normalization

IMAGES = np.random.default_rng(0).integers(0, 256, (96, 16, 16, 3), np.uint8)


class Small(nn.Module):
    """A network as EfficientNet-Lite has them: 1×1 and depthwise convolutions with ReLU6 between."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 64, 1)
        self.depthwise, self.narrow = nn.Conv2d(64, 64, 3, padding=1, groups=64), nn.Conv2d(64, 24, 1)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.wide(F.relu6(self.stem(x))))
        return self.head(F.adaptive_avg_pool2d(self.narrow(F.relu6(self.depthwise(x))), 1).flatten(1))


@pytest.fixture(scope="module")
def graph() -> onnx.ModelProto:
    torch.manual_seed(0)
    network = Small().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)  # so that ReLU6 has something to clip
    return to_onnx(network, Normalization(), 4, 16)


def pooled(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """The inputs of the head: means over the image of the last convolution's channels, N×24."""
    from onnxruntime import InferenceSession

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    (name,) = (node.input[0] for node in model.graph.node if node.op_type == "Gemm")
    watched.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    answer: np.ndarray = session.run([name], {INPUT: images})[0]
    return answer


def test_means_are_those_of_a_convolution_of_equal_pixels() -> None:
    """By channel, with one group, two groups and one group a channel."""
    draw = np.random.default_rng(1)
    for groups, outputs in ((1, 6), (2, 6), (4, 8), (4, 4)):
        weight, mean = draw.normal(size=(outputs, 4 // groups, 3, 3)), draw.normal(size=4)
        even = torch.from_numpy(np.broadcast_to(mean[:, None, None], (4, 5, 5)).copy())[None]
        expected = F.conv2d(even, torch.from_numpy(weight), groups=groups)[0, :, 1, 1].numpy()
        np.testing.assert_allclose(_mean_output(weight, mean), expected, rtol=1e-12)


def test_rounding_shifts_no_channel(graph: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over many images, a channel's mean was off by as much as the rounding of its filters adds."""
    plain, corrected = pooled(graph, IMAGES), pooled(quantize(graph, IMAGES), IMAGES)
    monkeypatch.setattr(quantizing, "_correct_biases", lambda *_: None)
    uncorrected = pooled(quantize(graph, IMAGES), IMAGES)
    shift, before = (np.abs((answer - plain).mean(0)).mean() for answer in (corrected, uncorrected))
    assert shift < 0.5 * before


def test_a_clip_is_the_range_of_what_it_clips(graph: onnx.ModelProto) -> None:
    """The range before it was kept too: of -30 to 30 the part from 0 to 6 has 25 of 256 steps."""
    quantized = quantize(graph, IMAGES)
    scales = {number.name: numpy_helper.to_array(number) for number in quantized.graph.initializer}
    clipped = [node.output[0] for node in graph.graph.node if node.op_type == "Clip"][1:]  # the first stays as it is
    assert len(clipped) == 2 and sum(node.op_type == "Clip" for node in quantized.graph.node) == 1
    for name in clipped:
        assert float(scales[f"{name}_scale"]) <= 6 / 255 * 1.001
