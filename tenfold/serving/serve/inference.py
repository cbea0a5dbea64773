"""The Open Inference Protocol, version 2: bytes of a request → pixels; what the model says → bytes of the response.

Of Triton's extensions, those of binary tensors and of classification:
https://github.com/triton-inference-server/server/tree/main/docs/protocol
"""

import json
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from tenfold.serving.predictor import Outputs
from tenfold.serving.serve.bodies import parse_json, too_many
from tenfold.serving.serve.limits import Limits
from tenfold.serving.serve.refusal import RefusalError

INPUT, PROBABILITIES = "images", "probabilities"
EXTENSIONS = ("binary_tensor_data", "classification")
PLATFORM = "onnx_onnxv1"
HEADER_LENGTH = "Inference-Header-Content-Length"
"""The header that says how many bytes of a body are JSON, before the bytes of tensors."""


@dataclass(frozen=True)
class RequestedOutput:
    """One output that was asked for.

    binary: whether it follows the JSON as bytes. classification: of probabilities, how many classes to name for each
    image, 0: all of them as a tensor.
    """

    name: str
    binary: bool
    classification: int = 0


@dataclass(frozen=True)
class InferRequest:
    """What was asked for: images uint8 N×S×S×3, and the outputs in their order."""

    request_id: str | None
    images: np.ndarray
    outputs: tuple[RequestedOutput, ...]


def parse_request(
    body: bytes, header_length: str | None, size: int, names: tuple[str, ...], limits: Limits
) -> InferRequest:
    """The request in a body; `header_length`: what `HEADER_LENGTH` says, if it was sent.

    names: of the model's outputs, all of which are meant where the request names none. Raises `RefusalError`: 400, or
    413 for too many images.
    """
    length = len(body) if header_length is None else _header_length(header_length, body)
    if length == 0 and body:
        outputs = tuple(RequestedOutput(name, binary=True) for name in names)
        return InferRequest(None, _raw_images(body, size, limits), outputs)
    message = parse_json(body[:length], most=2 * limits.images * size * size * 3 + 1_000)
    request_id, inputs = message.get("id"), message.get("inputs")
    if not isinstance(request_id, str | None):
        raise RefusalError(400, "id must be a string")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise RefusalError(400, f"inputs must be a list of one input, {INPUT}")
    outputs = _requested_outputs(message, names)
    return InferRequest(request_id, _images(inputs[0], body[length:], size, limits), outputs)


def _header_length(text: str, body: bytes) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20) or int(text) > len(body):
        raise RefusalError(400, f"{HEADER_LENGTH} must be a number of bytes, at most those of the body")
    return int(text)


def _raw_images(body: bytes, size: int, limits: Limits) -> np.ndarray:
    """A body that is nothing but the tensor: as many images as there are bytes for."""
    count, rest = divmod(len(body), size * size * 3)
    if rest:
        raise RefusalError(400, f"a body of pixels alone must hold {size}·{size}·3 bytes for each image")
    return _from_bytes(body, [count, size, size, 3], limits)


# --- the requested outputs ---------------------------------------------------------------------------------------


def _requested_outputs(message: dict[str, Any], names: tuple[str, ...]) -> tuple[RequestedOutput, ...]:
    """Which outputs are wanted, and how."""
    always_binary = _parameter(_parameters(message), "binary_data_output", bool, False)
    outputs = message.get("outputs")
    if outputs is None or outputs == []:
        outputs = [{"name": name} for name in names]
    if not isinstance(outputs, list) or not all(_is_output(value, names) for value in outputs):
        what = "the one output is" if len(names) == 1 else "the outputs are"
        raise RefusalError(400, f"outputs must be a list, and {what} {' and '.join(names)}")
    asked = [value["name"] for value in outputs]
    for name in asked:
        if asked.count(name) > 1:
            raise RefusalError(400, f"outputs names {name} more than once: the response identifies outputs by name")
    return tuple(_requested_output(value, always_binary) for value in outputs)


def _requested_output(value: dict[str, Any], always_binary: bool) -> RequestedOutput:
    name, parameters = value["name"], _parameters(value)
    if "shared_memory_region" in parameters:
        raise RefusalError(400, "shared memory is not supported: ask for the output without it")
    classification = _parameter(parameters, "classification", int, 0)
    if classification < 0:
        raise RefusalError(400, "classification must not be negative")
    if classification and name != PROBABILITIES:
        raise RefusalError(400, f"classification is for {PROBABILITIES}: ask for {name} without it")
    return RequestedOutput(name, _parameter(parameters, "binary_data", bool, always_binary), classification)


def _is_output(value: Any, names: tuple[str, ...]) -> bool:
    return isinstance(value, dict) and value.get("name") in names


def _parameters(owner: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a request, an input or an output, null ones left out. Those unknown here are left alone."""
    parameters = owner.get("parameters")
    if not isinstance(parameters, dict | None):
        raise RefusalError(400, "parameters must be an object")
    return {name: value for name, value in (parameters or {}).items() if value is not None}


def _parameter(parameters: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    value = parameters.get(name, default)
    if type(value) is not kind:  # for JSON, true is no number
        raise RefusalError(400, f"the parameter {name} must be {'true or false' if kind is bool else 'a whole number'}")
    return value


# --- the input ---------------------------------------------------------------------------------------------------


def _images(tensor: dict[str, Any], rest: bytes, size: int, limits: Limits) -> np.ndarray:
    """The one input; `rest`: the bytes that follow the JSON."""
    if tensor.get("name") != INPUT or tensor.get("datatype") != "UINT8":
        raise RefusalError(400, f"the input is {INPUT}, of datatype UINT8")
    shape = _shape(tensor.get("shape"), size, limits)
    parameters, data = _parameters(tensor), tensor.get("data")
    if "shared_memory_region" in parameters:
        raise RefusalError(400, "shared memory is not supported: send the tensor in the request")
    if "binary_data_size" in parameters:
        if data is not None:
            raise RefusalError(400, "an input has either data or binary_data_size, not both")
        if _parameter(parameters, "binary_data_size", int, 0) != len(rest):
            raise RefusalError(400, f"binary_data_size must be the number of bytes after the JSON; see {HEADER_LENGTH}")
        return _from_bytes(rest, shape, limits)
    if rest:
        raise RefusalError(400, "bytes follow the JSON, but the input has no parameter binary_data_size")
    if not isinstance(data, list):
        raise RefusalError(400, "data must be a list; or else the parameter binary_data_size is needed")
    return _from_numbers(_flatten(data, shape), shape)


def _shape(shape: Any, size: int, limits: Limits) -> list[int]:
    sound = isinstance(shape, list) and len(shape) == 4 and all(type(side) is int for side in shape)
    if not sound or shape[0] < 1 or shape[1:] != [size, size, 3]:
        raise RefusalError(400, f"the shape must be [N, {size}, {size}, 3]")
    if shape[0] > limits.images:
        raise too_many(limits.images)
    return list(shape)


def _from_bytes(content: bytes, shape: list[int], limits: Limits) -> np.ndarray:
    if shape[0] > limits.images:
        raise too_many(limits.images)
    if len(content) != np.prod(shape):
        raise RefusalError(400, f"binary_data_size must be {np.prod(shape)}, as the shape says")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _flatten(data: list[Any], shape: list[int]) -> list[Any]:
    """Values in row-major order, from a flat list, or from one that is nested exactly as the shape says."""
    if not _any_list(data):
        return data
    rows: list[Any] = [data]
    for side in shape:
        if not all(isinstance(row, list) and len(row) == side for row in rows):
            break
        rows = list(chain.from_iterable(rows))
    else:
        if not _any_list(rows):
            return rows
    raise RefusalError(400, "data must be flat, or nested exactly as the shape says")


def _any_list(values: list[Any]) -> bool:
    return any(isinstance(value, list) for value in values)


def _from_numbers(values: list[Any], shape: list[int]) -> np.ndarray:
    """uint8 of whole numbers, which may be written as 128.0, as languages do that know no other numbers."""
    kinds = set(map(type, values))
    try:
        if len(values) != np.prod(shape) or not kinds <= {int, float}:
            raise ValueError
        if float in kinds:
            if not all(map(float.is_integer, map(float, values))):
                raise ValueError
            values = list(map(int, values))
        return np.frombuffer(bytes(values), np.uint8).reshape(shape)  # bytes: none below 0 or above 255
    except (ValueError, OverflowError):
        message = f"data must hold as many whole numbers from 0 to 255 as the shape says, {np.prod(shape)}"
        raise RefusalError(400, message) from None


# --- the response ------------------------------------------------------------------------------------------------


def make_response(
    request: InferRequest, outputs: Outputs, classes: tuple[str, ...], model: str, version: str
) -> tuple[bytes, dict[str, str]]:
    """Body and headers; the bytes of binary outputs follow the JSON in its order."""
    tensors = [_tensor(asked, getattr(outputs, asked.name), classes) for asked in request.outputs]
    message = {"model_name": model, "model_version": version, "outputs": [tensor for tensor, _ in tensors]}
    if request.request_id is not None:
        message["id"] = request.request_id
    head = _dump(message)
    if not any(asked.binary for asked in request.outputs):
        return head, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    return head + b"".join(content for _, content in tensors), headers


def _tensor(asked: RequestedOutput, values: np.ndarray, classes: tuple[str, ...]) -> tuple[dict[str, Any], bytes]:
    """One output float32 N×K or N, as it is in the JSON, and the bytes that follow that."""
    tensor: dict[str, Any] = {"name": asked.name, "datatype": "FP32", "shape": list(values.shape)}
    texts: list[str] = []
    if asked.classification:
        texts = [text for row in values for text in _best_classes(row, classes, asked.classification)]
        tensor |= {"datatype": "BYTES", "shape": [len(values), len(texts) // len(values)]}
    if not asked.binary:
        return tensor | {"data": texts or values.ravel().tolist()}, b""
    content = _length_prefixed(texts) if texts else values.astype("<f4").tobytes()
    return tensor | {"parameters": {"binary_data_size": len(content)}}, content


def _dump(message: dict[str, Any]) -> bytes:
    """ASCII: an id may hold half a character, which no UTF-8 can."""
    return json.dumps(message, separators=(",", ":")).encode()


def _best_classes(row: np.ndarray, classes: tuple[str, ...], count: int) -> list[str]:
    """`value:index:label`, the most probable first; values with as many digits as float32 has, never as 1e-05."""
    best = np.argsort(-row, kind="stable")[:count]
    return [f"{np.format_float_positional(row[i], unique=True, trim='0')}:{i}:{classes[i]}" for i in best]


def _length_prefixed(texts: list[str]) -> bytes:
    """BYTES: before each element its length, as four bytes, little-endian."""
    contents = [text.encode(errors="replace") for text in texts]
    return b"".join(len(content).to_bytes(4, "little") + content for content in contents)
