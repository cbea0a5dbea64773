"""A network → an ONNX graph from pixels to probabilities: uint8 N×H×W×3 in, float32 N×K out, any N.

With a `FeatureDistance`, also to a distance, float32 N: the second output, so that whoever takes the first one gets
probabilities as before.

Norms are folded into the convolutions before them, through a max pool too, which torch's own exporter leaves standing;
and what that exporter takes eight seconds for takes a tenth of one.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx, nn

from tenfold.errors import ModelError
from tenfold.training.augment import Normalization
from tenfold.training.distance import FeatureDistance
from tenfold.training.networks.module import zeros_around

OPSET = 20  # the first that has Gelu
IR_VERSION = 9  # the one that came with it: runtimes that know the operators know this
INPUT, OUTPUT, DISTANCE = "images", "probabilities", "distance"


def to_onnx(
    network: nn.Module,
    normalization: Normalization,
    classes: int,
    size: int,
    temperature: float = 1.0,
    distance: FeatureDistance | None = None,
) -> onnx.ModelProto:
    """Convert a network in evaluation mode, with normalization before it, temperature and softmax after it.

    distance: what its second output is computed with, if it is to have one. Raises `ModelError` that names a step which
    has no counterpart here.
    """
    traced = Tracer().trace(network)
    graph = _Graph(network, _fold_norms(traced, network), distance)
    for node in traced.nodes:
        graph.take(node, normalization, temperature)
    images = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["N", size, size, 3])
    answers = [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", classes])]
    if distance is not None:
        answers.append(helper.make_tensor_value_info(DISTANCE, TensorProto.FLOAT, ["N"]))
    built = helper.make_graph(graph.nodes, "tenfold", [images], answers, graph.numbers)
    return helper.make_model(built, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def separate_pools(network: onnx.ModelProto) -> onnx.ModelProto:
    """Put a pool over single pixels, which changes nothing, between each max pool and the GELU that follows it.

    OpenVINO (seen in 2026.4) computes an activation behind convolution and max pool before the pool. That is the same
    for activations that never fall; GELU does, below -0.75: probabilities were off by up to 0.23. For files in float32;
    in quantised ones other nodes stand in between.
    """
    separated = onnx.ModelProto()
    separated.CopyFrom(network)
    del separated.graph.node[:]
    pools = {node.output[0] for node in network.graph.node if node.op_type == "MaxPool"}
    for node in network.graph.node:
        apart = f"{node.output[0]}.apart"
        follows = node.op_type == "Gelu" and node.input[0] in pools
        if follows:
            separated.graph.node.append(helper.make_node("MaxPool", node.input[:], [apart], apart, kernel_shape=[1, 1]))
        separated.graph.node.append(node)
        if follows:
            separated.graph.node[-1].input[0] = apart
    return separated


# --- norms go into convolutions ----------------------------------------------------------------------------------


class Tracer(fx.Tracer):
    """Takes a layer that holds numbers as one step, also where its class is one of ours."""

    def is_leaf_module(self, module: nn.Module, _name: str) -> bool:
        return isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear)


Affine = tuple[Tensor, Tensor]
"""Scale and shift per channel: y = scale · x + shift."""


def _affine(norm: nn.BatchNorm2d) -> Affine:
    """What batch norm does to an image when it no longer learns."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


def _fold_norms(traced: fx.Graph, network: nn.Module) -> dict[str, Affine]:
    """Take norms that follow a convolution out of the graph; say by its name what each convolution has to do instead.

    A max pool may stand between: a positive scale does not change which pixel of a patch is the largest.
    """
    folded = {}
    for node in list(traced.nodes):
        norm = layer_of(node, network)
        if not isinstance(norm, nn.BatchNorm2d):
            continue
        scale, shift = _affine(norm)
        source = node.args[0]
        while source.target is F.max_pool2d and len(source.users) == 1 and bool((scale > 0).all()):
            source = source.args[0]
        if isinstance(layer_of(source, network), nn.Conv2d) and len(source.users) == 1:
            folded[source.name] = scale, shift
            node.replace_all_uses_with(node.args[0])
            traced.erase_node(node)
    return folded


def layer_of(node: fx.Node, network: nn.Module) -> nn.Module | None:
    """The layer that a step of a traced network stands for; None for a function."""
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def own_functions(network: nn.Module, file_format: str) -> dict[Any, Callable[..., Any]]:
    """How the network itself says that functions of its `forward` are written: `Network.export_functions`."""
    return dict(getattr(network, "export_functions", {}).get(file_format, {}))


# --- step by step ------------------------------------------------------------------------------------------------


class _Graph:
    """The nodes and numbers so far. `take` adds what one step of the traced network is in ONNX."""

    def __init__(self, network: nn.Module, folded: Mapping[str, Affine], distance: FeatureDistance | None = None):
        self.network, self.folded, self.distance = network, folded, distance
        self.features = self.early = ""  # the inputs of the layers `head` and `Network.early_layer`
        self.nodes: list[onnx.NodeProto] = []
        self.numbers: list[onnx.TensorProto] = []
        self.names: dict[fx.Node, str] = {}

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append a node; return the name of its output."""
        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def keep(self, name: str, value: Any) -> str:
        """Keep numbers as float32 under `name`; return the name."""
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        self.numbers.append(numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name))
        return name

    def keep_axis(self, name: str, axis: int) -> str:
        """Keep the number of an axis; return its name."""
        self.numbers.append(numpy_helper.from_array(np.array([axis], np.int64), name))
        return name

    def take(self, node: fx.Node, normalization: Normalization, temperature: float) -> None:
        """Add one step of the network."""
        if node.op == "placeholder":
            self.names[node] = self.begin(normalization)
            return
        inputs = [self.names[argument] for argument in node.args if isinstance(argument, fx.Node)]
        if node.op == "output":
            if self.distance is not None:
                self.add_distance(self.features, self.early, self.distance)
            self.end(inputs[0], temperature)
        else:
            if node.target == "head":
                self.features = inputs[0]
            if node.target == getattr(self.network, "early_layer", ""):
                self.early = inputs[0]
            self.names[node] = self.translate(node, inputs)

    def begin(self, normalization: Normalization) -> str:
        """From bytes to normalised float32 N×3×H×W: two nodes where the pixels have a mean, one where not."""
        turned = self.add("Transpose", [INPUT], "turned", perm=[0, 3, 1, 2])  # while a pixel is one byte
        mean, std = (np.array(values).reshape(1, 3, 1, 1) for values in normalization)
        floats = self.add("Cast", [turned], "floats", to=TensorProto.FLOAT)
        scaled = self.add("Mul", [floats, self.keep("scale", 1 / (255 * std))], "scaled")
        return self.add("Add", [scaled, self.keep("shift", -mean / std)], "normalized") if mean.any() else scaled

    def end(self, logits: str, temperature: float) -> None:
        """From logits to probabilities."""
        if temperature != 1:
            logits = self.add("Mul", [logits, self.keep("sharpness", 1 / temperature)], "tempered")
        self.add("Softmax", [logits], OUTPUT, axis=1)

    def add_distance(self, features: str, early: str, found: FeatureDistance) -> None:
        """From features N×F and early ones N×C×H×W to `FeatureDistance` of them.

        A column until the end, since OpenCV 4 mixes up vectors.
        """
        kept = {name: self.keep(f"distance.{name}", array) for name, array in found.arrays.items()}
        axis = self.keep_axis("distance.axis", 1)
        points, norm = self.add_points(features, kept, "", axis)
        classes = self.add("Gemm", [points, kept["centers"], kept["levels"]], "distance.classes")
        nearest = self.add("ReduceMax", [classes, axis], "distance.nearest", keepdims=1)
        discriminants = self.add("Gemm", [features, kept["weights"], kept["biases"]], "distance.discriminants")
        largest = self.add("ReduceMax", [discriminants, axis], "distance.largest", keepdims=1)
        apart = self.add("Sub", [norm, nearest], "distance.mahalanobis")
        column = self.add("Sub", [apart, largest], "distance.column")
        if found.early is not None:
            column = self.add("Add", [column, self.add_early(early, kept, axis)], "distance.sum")
        self.add("Squeeze", [column, axis], DISTANCE)

    def add_points(self, features: str, kept: Mapping[str, str], part: str, axis: str) -> tuple[str, str]:
        """From features N×F to coordinates z N×D and |z|² N×1; part: what the names of its numbers begin with."""
        scaled = self.add("Mul", [features, kept[f"{part}factor"]], f"distance.{part}scaled")
        compressed = self.add("Asinh", [scaled], f"distance.{part}compressed")
        numbers = [kept[f"{part}projection"], kept[f"{part}offset"]]
        points = self.add("Gemm", [compressed, *numbers], f"distance.{part}points")
        squares = self.add("Mul", [points, points], f"distance.{part}squares")
        return points, self.add("ReduceSum", [squares, axis], f"distance.{part}norm", keepdims=1)

    def add_early(self, early: str, kept: Mapping[str, str], axis: str) -> str:
        """From early features N×C×H×W to `EarlyDistance` of their means, N×1."""
        means = self.add("GlobalAveragePool", [early], "distance.early.means")
        flat = self.add("Flatten", [means], "distance.early.flat", axis=1)
        _, norm = self.add_points(flat, kept, "early.", axis)
        beyond = self.add("Sub", [norm, kept["early.limit"]], "distance.early.beyond")
        return self.add("Relu", [beyond], "distance.early.added")

    def translate(self, node: fx.Node, inputs: list[str]) -> str:
        """Add a layer or a function. Raises `ModelError` for one that is not known here."""
        layer = layer_of(node, self.network)
        if layer is not None:
            return self.add_layer(node.name, layer, inputs)
        if node.target is F.dropout:  # of use while training only
            return inputs[0]
        options = [argument for argument in node.args if not isinstance(argument, fx.Node)]
        if node.target is operator.mul:
            return self.add("Mul", [*inputs, self.keep(f"{node.name}.factor", options[0])], node.name)
        if node.target is F.relu6:
            return self.add("Clip", [*inputs, *self.limits(0, 6)], node.name)
        functions = _FUNCTIONS | own_functions(self.network, "onnx")
        if node.target not in functions:
            raise ModelError(f"the network has a step {node.target}, for which this version knows no ONNX")
        kind, attributes = functions[node.target](*options)
        return self.add(kind, inputs, node.name, **attributes)

    def limits(self, low: float, high: float) -> tuple[str, str]:
        """Names of two numbers that are kept once for the whole graph."""
        names = f"limit.{low:g}", f"limit.{high:g}"
        if all(number.name != names[0] for number in self.numbers):
            self.keep(names[0], low), self.keep(names[1], high)
        return names

    def add_layer(self, name: str, layer: nn.Module, inputs: list[str]) -> str:
        """Add a layer that holds numbers, those of a norm that was folded into it counted in."""
        if isinstance(layer, nn.Conv2d):
            weight, bias = self.numbers_of(name, layer)
            before, after = zeros_around(layer)
            sides = {"kernel_shape": layer.kernel_size, "strides": layer.stride, "pads": [before] * 2 + [after] * 2}
            return self.add("Conv", [*inputs, weight, bias], name, group=layer.groups, **sides)
        if isinstance(layer, nn.BatchNorm2d):
            scale, shift = (values.reshape(1, -1, 1, 1) for values in _affine(layer))
            scaled = self.add("Mul", [*inputs, self.keep(f"{name}.scale", scale)], f"{name}.scaled")
            return self.add("Add", [scaled, self.keep(f"{name}.shift", shift)], name)
        assert isinstance(layer, nn.Linear)
        numbers = [self.keep(f"{name}.weight", layer.weight)]
        numbers += [] if layer.bias is None else [self.keep(f"{name}.bias", layer.bias)]
        return self.add("Gemm", [*inputs, *numbers], name, transB=1)

    def numbers_of(self, name: str, layer: nn.Conv2d) -> tuple[str, str]:
        """Names of a convolution's kept filters and biases."""
        bias = torch.zeros(layer.out_channels) if layer.bias is None else layer.bias
        scale, shift = self.folded.get(name, (torch.ones(layer.out_channels), torch.zeros(layer.out_channels)))
        weight = layer.weight * scale.reshape(-1, 1, 1, 1)
        return self.keep(f"{name}.weight", weight), self.keep(f"{name}.bias", bias * scale + shift)


def _pool(kind: str) -> Callable[[int], tuple[str, dict[str, Any]]]:
    return lambda side: (kind, {"kernel_shape": [side, side], "strides": [side, side]})


_FUNCTIONS: dict[Any, Callable[..., tuple[str, dict[str, Any]]]] = {
    F.gelu: lambda: ("Gelu", {}),
    F.relu: lambda: ("Relu", {}),
    F.max_pool2d: _pool("MaxPool"),
    F.avg_pool2d: _pool("AveragePool"),
    F.adaptive_avg_pool2d: {1: ("GlobalAveragePool", {})}.__getitem__,
    F.adaptive_max_pool2d: {1: ("GlobalMaxPool", {})}.__getitem__,
    operator.add: lambda: ("Add", {}),
    "flatten": lambda axis: ("Flatten", {"axis": axis}),
    "permute": lambda *order: ("Transpose", {"perm": order}),
}
"""ONNX operator and attributes by what the network calls, given what it calls it with."""
