"""A graph whose convolutions multiply 8-bit numbers: a quarter of the size, faster where the processor is made for it.

Rounded filters shift what a channel gives on average, which adds up from layer to layer. The shift is known, from the
mean of what each convolution gets, and is taken out of its bias (bias correction: Nagel et al., "Data-Free Quantization
through Weight Equalization and Bias Correction", 2019).
"""

import contextlib
import copy
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession, quantization

from tenfold.data.stored import Images
from tenfold.serving.graph import INPUT
from tenfold.serving.source import spread

CALIBRATED = 512
"""Training images that tell in which range the numbers of each layer lie."""
AVERAGED = 128
"""Of these, images that tell the mean of what each convolution gets."""
_BATCH = 64


def quantize(network: onnx.ModelProto, images: Images) -> onnx.ModelProto:
    """Let the convolutions multiply int8 numbers, in ranges seen on some of `images`, uint8 N×S×S×3.

    The first one stays as it is: it takes no time, and is the most sensitive. Filters use 7 bits, since processors
    without VNNI add pairs of products in 16 bits. A clip behind a convolution becomes the range of its output. Max
    pools take and give 8 bits, which changes no number: the new engine of OpenCV 5 fails at a pool with 8 bits before
    it only.
    """
    first = next(node.name for node in network.graph.node if node.op_type == "Conv")
    some = images[spread(len(images), CALIBRATED)]
    with tempfile.TemporaryDirectory() as folder, _without_log():
        path = Path(folder) / "model.onnx"
        quantization.quantize_static(
            copy.deepcopy(network),
            path,
            _Batches(some),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Clip", "MaxPool"],
            nodes_to_exclude=[first],
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        quantized = onnx.load(path)
    _correct_biases(quantized, network, some[spread(len(some), AVERAGED)])
    return quantized


def _correct_biases(quantized: onnx.ModelProto, network: onnx.ModelProto, images: np.ndarray) -> None:
    """Take out of each bias what the rounding of its filters adds on average."""
    numbers = {number.name: number for number in quantized.graph.initializer}
    plain = {number.name: numpy_helper.to_array(number) for number in network.graph.initializer}
    means = _mean_inputs(network, images)
    for node in network.graph.node:
        if node.op_type != "Conv" or f"{node.input[1]}_quantized" not in numbers:
            continue
        source, weight, bias = node.input
        steps = numpy_helper.to_array(numbers[f"{weight}_scale"]).reshape(-1, 1, 1, 1)
        rounding = numpy_helper.to_array(numbers[f"{weight}_quantized"]) * steps - plain[weight]
        shift = _mean_output(rounding, means[source]) / numpy_helper.to_array(numbers[f"{bias}_quantized_scale"])
        name = f"{bias}_quantized"
        corrected = numpy_helper.to_array(numbers[name]) - np.round(shift)
        numbers[name].CopyFrom(numpy_helper.from_array(corrected.astype(np.int32), name))


def _mean_output(weight: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """What a convolution of filters O×I×h×w without bias gives on average where its inputs' channels have a `mean`.

    The zeros around an image are not counted.
    """
    sums, groups = weight.sum((2, 3)), len(mean) // weight.shape[1]
    inputs = np.repeat(mean.reshape(groups, -1), len(weight) // groups, axis=0)
    output: np.ndarray = (sums * inputs).sum(1)
    return output


def _mean_inputs(network: onnx.ModelProto, images: np.ndarray) -> dict[str, np.ndarray]:
    """Mean per channel of what each convolution gets, by its name in the graph."""
    watched = copy.deepcopy(network)
    names = list(dict.fromkeys(node.input[0] for node in network.graph.node if node.op_type == "Conv"))
    watched.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    session = InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    sums: dict[str, np.ndarray] = {}
    for batch in _batches(images, 16):
        for name, values in zip(names, session.run(names, {INPUT: batch}), strict=True):
            sums[name] = sums.get(name, 0) + values.mean((2, 3), dtype=np.float64).sum(0)
    return {name: total / len(images) for name, total in sums.items()}


def _batches(images: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return map(np.ascontiguousarray, np.array_split(images, -(-len(images) // size)))


class _Batches(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Images as the quantiser asks for them."""

    def __init__(self, images: np.ndarray):
        self.batches = _batches(images, _BATCH)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {INPUT: batch}


@contextlib.contextmanager
def _without_log() -> Iterator[None]:
    """The quantiser advises to fold norms first, which is done; and it makes the root logger print, ours with it."""
    handlers = logging.root.handlers[:]
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        logging.root.handlers[:] = handlers
