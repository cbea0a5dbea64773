"""A trained run → a `.keras` file, made of Keras's own layers, so that TensorFlow opens it with nothing of ours.

uint8 N×S×S×3 in, float32 probabilities N×K out; normalisation and temperature are layers inside. Its configuration
holds what the layers need and nothing else, so that Keras 3.8 opens it as well as the newest. What the file says of
itself (`ModelMetadata`: class names, resize mode, threshold, accuracy) is `tenfold.json` within it, which is a zip
archive: so it cannot get lost on the way. Keras saves it on its torch backend; the network's norms and dropout stay
layers of their own, so that it can be looked at and trained on.
"""

import json
import operator
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor, fx, nn

from tenfold.data.dataset import Dataset
from tenfold.errors import ModelError
from tenfold.files import format_object
from tenfold.serving.graph import INPUT, OUTPUT, Tracer, layer_of, own_functions
from tenfold.serving.model_file import ModelMetadata
from tenfold.serving.source import Exported, Source, read_source, verified, write_into
from tenfold.training.augment import Normalization
from tenfold.training.networks.module import zeros_around
from tenfold.training.provenance import FoundData
from tenfold.training.run import Run

RUN_FILE = "model.keras"  # in a run directory
ABOUT_FILE = "tenfold.json"  # in the archive
_BATCH = 256


def export_keras(run: Run, out: Path | None = None, data: Dataset | Path | FoundData | None = None) -> Exported:
    """Write the model of a trained run for Keras, by default to `model.keras` in the run directory.

    data: the images to check it on, as for `export`. Raises `ModelError`, and writes nothing, where the network has a
    step that Keras has no layer for, or where the file would answer otherwise than the network; `DataError` for `data`
    that does not fit the run; `BusyError` for a run in use; `StorageError`.
    """
    return write_into(run, out, RUN_FILE, lambda path: _export(read_source(run, data), path))


def _export(source: Source, out: Path) -> tuple[bytes, Exported]:
    runtime = f"Keras {import_keras().__version__}"
    return verified(source, out, "keras", runtime, to_bytes(source), predict)


def to_bytes(source: Source) -> bytes:
    """The content of a `.keras` file. Raises `ModelError` for a step that Keras has no layer for."""
    keras = import_keras()
    with tempfile.TemporaryDirectory() as draft, keras.device("cpu"):
        path = Path(draft) / RUN_FILE
        save(to_keras(source, keras), replace(source.about, distance=None), path)  # which it does not compute
        return path.read_bytes()


def predict(content: bytes, images: np.ndarray) -> np.ndarray:
    """What Keras answers with a file's content: uint8 N×S×S×3 to probabilities N×K."""
    keras = import_keras()
    with tempfile.TemporaryDirectory() as draft, keras.device("cpu"):
        path = Path(draft) / RUN_FILE
        path.write_bytes(content)
        return _answer(keras.saving.load_model(path), keras, images)


def _answer(model: Any, keras: ModuleType, images: np.ndarray) -> np.ndarray:
    batches = np.array_split(images, -(-len(images) // _BATCH))
    return np.concatenate([keras.ops.convert_to_numpy(model(batch, training=False)) for batch in batches])


def import_keras() -> ModuleType:
    """Import Keras on its torch backend; the settings in the user's home are neither read nor written.

    Where the process has imported it before, that one is taken, whatever its backend.
    """
    if "keras" not in sys.modules:
        with tempfile.TemporaryDirectory() as folder, _environment(KERAS_BACKEND="torch", KERAS_HOME=folder):
            import keras  # noqa: F401
    return sys.modules["keras"]


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def save(model: Any, about: ModelMetadata, path: Path) -> None:
    """Write a model of `to_keras` as a `.keras` archive that Keras 3.8 opens, too, with `about` inside."""
    whole = path.with_name(f"whole-{path.name}")
    model.save(whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as archive:
        for entry in source.infolist():
            content = source.read(entry)
            archive.writestr(entry, _only_needed(content) if entry.filename == "config.json" else content)
        archive.writestr(ABOUT_FILE, format_object(about.to_json()))


_NEEDED: dict[str, tuple[str, ...]] = {
    "InputLayer": ("batch_shape",),
    "Rescaling": ("scale", "offset"),
    "Conv2D": ("filters", "kernel_size", "strides", "padding", "use_bias", "data_format"),
    "DepthwiseConv2D": ("kernel_size", "strides", "padding", "use_bias", "data_format"),
    "BatchNormalization": ("axis", "momentum", "epsilon"),
    "Dense": ("units", "use_bias"),
    "Dropout": ("rate",),
    "Activation": ("activation",),
    "ZeroPadding2D": ("padding", "data_format"),
    "MaxPooling2D": ("pool_size", "strides", "padding", "data_format"),
    "AveragePooling2D": ("pool_size", "strides", "padding", "data_format"),
    "GlobalAveragePooling2D": ("keepdims", "data_format"),
    "GlobalMaxPooling2D": ("keepdims", "data_format"),
    "Flatten": ("data_format",),
    "Softmax": ("axis",),
    "Add": (),
}
"""What each kind of layer is built from. Keras writes all arguments, and its older versions refuse those that they do
not know, such as `input_axes` of an initializer (3.15) or `renorm` of batch norm."""


def _only_needed(content: bytes) -> bytes:
    """The configuration of a model without what its layers can be built without."""
    model = json.loads(content)
    for layer in model["config"]["layers"]:
        config, dtype = layer["config"], "uint8" if layer["class_name"] == "InputLayer" else "float32"
        needed = {key: config[key] for key in _NEEDED.get(layer["class_name"], config)}
        layer["config"] = {"name": config["name"], "dtype": dtype} | needed
    return json.dumps(model).encode()


def to_keras(source: Source, keras: ModuleType) -> Any:
    """The network as a Keras model of built-in layers. Raises `ModelError` that names a step that is not among them."""
    model, about = source.model, source.about
    layers = _Layers(model.network, keras.layers)
    images = keras.Input((model.size, model.size, 3), dtype="uint8", name=INPUT)
    for node in Tracer().trace(model.network).nodes:
        layers.take(node, images, model.normalization, about.temperature)
    keras_model = keras.Model(images, layers.probabilities, name="tenfold")
    for name, numbers in layers.numbers.items():
        keras_model.get_layer(name).set_weights(numbers)
    return keras_model


class _Layers:
    """The Keras tensors so far. `take` adds what one step of the traced network is in Keras, channels last."""

    def __init__(self, network: nn.Module, layers: ModuleType):
        self.network, self.layers = network, layers
        self.tensors: dict[fx.Node, Any] = {}
        self.numbers: dict[str, list[np.ndarray]] = {}
        self.probabilities: Any = None

    def take(self, node: fx.Node, images: Any, normalization: Normalization, temperature: float) -> None:
        """Add one step of the network."""
        inputs = [self.tensors[argument] for argument in node.args if isinstance(argument, fx.Node)]
        if node.op == "placeholder":
            self.tensors[node] = self.begin(images, normalization)
        elif node.op == "output":
            self.probabilities = self.end(inputs[0], temperature)
        else:
            self.tensors[node] = self.translate(node, inputs)

    def begin(self, images: Any, normalization: Normalization) -> Any:
        """From bytes to normalised float32."""
        if normalization == Normalization():
            return self.layers.Rescaling(1 / 255, name="normalized")(images)
        mean, std = np.array(normalization.mean), np.array(normalization.std)
        # of three axes: where the user's settings put channels first, Keras turns a vector (and so the wrong axis)
        scale, offset = ((values.reshape(1, 1, 3)).tolist() for values in (1 / (255 * std), -mean / std))
        return self.layers.Rescaling(scale, offset, name="normalized")(images)

    def end(self, logits: Any, temperature: float) -> Any:
        """From logits to probabilities."""
        if temperature != 1:
            logits = self.layers.Rescaling(1 / temperature, name="tempered")(logits)
        return self.layers.Softmax(name=OUTPUT)(logits)

    def translate(self, node: fx.Node, inputs: list[Any]) -> Any:
        """Add a layer or a function. Raises `ModelError` for one that is not known here."""
        layer = layer_of(node, self.network)
        if layer is not None:
            return self.add_layer(node.name, layer, inputs[0])
        options = [argument for argument in node.args if not isinstance(argument, fx.Node)]
        if node.target == "permute" and tuple(options) == (0, 2, 3, 1):
            return inputs[0]  # the channels are last already
        if node.target is F.dropout:  # of use while training only, and so to whoever trains on
            return self.layers.Dropout(node.kwargs["p"], name=node.name)(inputs[0])
        functions = _FUNCTIONS | own_functions(self.network, "keras")
        if node.target not in functions:
            raise ModelError(f"the network has a step {node.target}, for which this version knows no Keras layer")
        made = functions[node.target](self.layers, node.name, *options)
        return made(inputs if len(inputs) > 1 else inputs[0])

    def add_layer(self, name: str, layer: nn.Module, x: Any) -> Any:
        """Add a layer that holds numbers."""
        if isinstance(layer, nn.Conv2d):
            return self.add_convolution(name, layer, x)
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.momentum is not None
            self.keep(name, layer.weight, layer.bias, layer.running_mean, layer.running_var)
            keep = round(1 - layer.momentum, 12)
            return self.layers.BatchNormalization(momentum=keep, epsilon=layer.eps, name=name)(x)
        assert isinstance(layer, nn.Linear)
        self.keep(name, layer.weight.T, layer.bias)
        return self.layers.Dense(layer.out_features, use_bias=layer.bias is not None, name=name)(x)

    def add_convolution(self, name: str, layer: nn.Conv2d, x: Any) -> Any:
        """Add a convolution; what Keras calls "same" is ours only at stride 1 and with half a kernel around."""
        (side, _), (stride, _), zeros = layer.kernel_size, layer.stride, zeros_around(layer)
        same = stride == 1 and side == sum(zeros) + 1
        if any(zeros) and not same:
            x = self.layers.ZeroPadding2D((zeros, zeros), name=f"{name}_padded")(x)
        options = {"strides": stride, "padding": "same" if same else "valid", "use_bias": layer.bias is not None}
        if layer.groups == layer.in_channels > 1:
            self.keep(name, layer.weight.permute(2, 3, 0, 1), layer.bias)
            return self.layers.DepthwiseConv2D(side, name=name, **options)(x)
        if layer.groups > 1:
            raise ModelError(f"the network has a convolution of {layer.groups} groups, which is not written for Keras")
        self.keep(name, layer.weight.permute(2, 3, 1, 0), layer.bias)
        return self.layers.Conv2D(layer.out_channels, side, name=name, **options)(x)

    def keep(self, name: str, *tensors: Tensor | None) -> None:
        """Remember the numbers of the layer `name`, which it can hold once the model is built."""
        self.numbers[name] = [tensor.detach().cpu().numpy() for tensor in tensors if tensor is not None]


_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    F.gelu: lambda layers, name: layers.Activation("gelu", name=name),
    F.relu: lambda layers, name: layers.Activation("relu", name=name),
    F.relu6: lambda layers, name: layers.Activation("relu6", name=name),
    F.max_pool2d: lambda layers, name, side: layers.MaxPooling2D(side, name=name),
    F.avg_pool2d: lambda layers, name, side: layers.AveragePooling2D(side, name=name),
    F.adaptive_avg_pool2d: lambda layers, name, _side: layers.GlobalAveragePooling2D(keepdims=True, name=name),
    F.adaptive_max_pool2d: lambda layers, name, _side: layers.GlobalMaxPooling2D(keepdims=True, name=name),
    operator.add: lambda layers, name: layers.Add(name=name),
    operator.mul: lambda layers, name, factor: layers.Rescaling(factor, name=name),
    "flatten": lambda layers, name, _axis: layers.Flatten(name=name),
}
"""Makers of Keras layers by what the network calls, given a name and what it calls it with."""
