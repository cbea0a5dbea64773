"""What goes in and comes out, as `/openapi.json` describes it."""

from typing import (
    Any,
    Literal,
    NotRequired,  # of `typing`, pydantic takes Python 3.12's only
)

from fastapi import FastAPI
from typing_extensions import TypedDict


class ClassProbability(TypedDict):
    label: str
    probability: float


class Prediction(TypedDict):
    """label: the most probable class, null where it was rejected; distance: how unlike the training images it is, the
    larger, the less known; rejected_by: why it was rejected; pixels: base64 of size × size × 3 bytes, RGB."""

    label: str | None
    probability: float
    top: list[ClassProbability]
    distance: NotRequired[float]
    rejected_by: NotRequired[list[Literal["confidence", "distance"]]]
    pixels: NotRequired[str]


class Predictions(TypedDict):
    """model: its name; size: pixels a side that it sees; threshold: the probability below which it is not sure;
    distance_threshold: the distance beyond which an image is unlike its training images."""

    model: str
    size: int
    threshold: float | None
    distance_threshold: float | None
    predictions: list[Prediction]


class Error(TypedDict):
    error: str


class Health(TypedDict):
    status: Literal["ok"]


class Model(TypedDict):
    """size: pixels a side that it sees; threshold: the probability below which it is not sure, if it has one;
    distance_threshold: the distance beyond which an image is unlike its training images, if it has one."""

    name: str
    size: int
    threshold: float | None
    distance_threshold: float | None
    classes: list[str]


class Live(TypedDict):
    live: bool


class Ready(TypedDict):
    """live: the same, as the protocol's text calls it."""

    ready: bool
    live: bool


class ServerMetadata(TypedDict):
    name: str
    version: str
    extensions: list[str]


class TensorMetadata(TypedDict):
    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(TypedDict):
    """parameters: what the model file says about itself."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: dict[str, Any]


class ModelReady(TypedDict):
    name: str
    ready: bool


class Tensor(TypedDict):
    """data: probabilities, or `value:index:label` of classes; left out of binary answers."""

    name: str
    datatype: str
    shape: list[int]
    data: NotRequired[list[float] | list[str]]
    parameters: NotRequired[dict[str, int]]


class Inference(TypedDict):
    model_name: str
    model_version: str
    id: NotRequired[str]
    outputs: list[Tensor]


def describe_security(app: FastAPI, has_token: bool) -> None:
    """Say in the description how the token is sent, where there is one."""
    if not has_token:
        return
    describe = app.openapi

    def with_security() -> dict[str, Any]:
        schema = describe()
        schema.setdefault("components", {})["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        schema["security"] = [{"bearer": []}, {"key": []}]
        return schema

    app.openapi = with_security  # type: ignore[method-assign]


def responses(model: type, *, refuses: bool = False) -> dict[int | str, dict[str, Any]]:
    """What a route may answer: `model`, or, where it refuses, an error."""
    responses: dict[int | str, dict[str, Any]] = {200: {"model": model}}
    if refuses:
        responses["4XX"] = {"model": Error, "description": "Refused: what was sent, or who sent it."}
        responses[503] = {"model": Error, "description": "Too busy: try again after `Retry-After` seconds."}
    return responses


_FILE = {"schema": {"type": "string", "format": "binary"}}
_BASE64 = {"type": "string", "contentEncoding": "base64", "description": "May be a data: URI."}
PREDICT_BODY = {
    "requestBody": {
        "required": True,
        "description": "PNG, JPEG, WebP, GIF, BMP or TIFF: one as it is, or several.",
        "content": {
            "image/*": _FILE,
            "application/octet-stream": _FILE,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"image": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                    "required": ["image"],
                }
            },
            "application/json": {
                "schema": {
                    "oneOf": [
                        {
                            "type": "object",
                            "properties": {"image": _BASE64},
                            "required": ["image"],
                            "additionalProperties": False,
                        },
                        {
                            "type": "object",
                            "properties": {"images": {"type": "array", "items": _BASE64, "minItems": 1}},
                            "required": ["images"],
                            "additionalProperties": False,
                        },
                    ]
                }
            },
        },
    }
}


MODEL_METADATA = responses(ModelMetadata, refuses=True)
MODEL_READY = responses(ModelReady, refuses=True)
INFERENCE = responses(Inference, refuses=True)
INFERENCE[200]["content"] = {"application/octet-stream": _FILE}


def infer_body(name: str, outputs: tuple[str, ...], header: str, size: int) -> dict[str, Any]:
    """Header and body of an inference request, version 2."""
    inputs = {"type": "array", "items": _input(name, size), "minItems": 1, "maxItems": 1}
    schema = {
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "inputs": inputs,
            "outputs": {"type": "array", "items": _output(outputs), "maxItems": len(outputs)},
            "parameters": {"type": "object", "properties": {"binary_data_output": {"type": "boolean"}}},
        },
        "required": ["inputs"],
    }
    length = {
        "name": header,
        "in": "header",
        "required": False,
        "description": "Bytes of JSON before those of tensors; 0 where the body is the pixels alone.",
        "schema": {"type": "integer", "minimum": 0},
    }
    content = {"application/json": {"schema": schema}, "application/octet-stream": _FILE}
    return {"parameters": [length], "requestBody": {"required": True, "content": content}}


def _input(name: str, size: int) -> dict[str, Any]:
    sides = [{"type": "integer", "minimum": 1}, {"const": size}, {"const": size}, {"const": 3}]
    return {
        "type": "object",
        "properties": {
            "name": {"const": name},
            "datatype": {"const": "UINT8"},
            "shape": {"type": "array", "prefixItems": sides, "minItems": 4, "maxItems": 4},
            "data": {"type": "array", "description": "Row by row, flat or nested.", "items": {}},
            "parameters": {"type": "object", "properties": {"binary_data_size": {"type": "integer", "minimum": 0}}},
        },
        "required": ["name", "datatype", "shape"],
    }


def _output(names: tuple[str, ...]) -> dict[str, Any]:
    parameters = {"binary_data": {"type": "boolean"}, "classification": {"type": "integer", "minimum": 0}}
    return {
        "type": "object",
        "properties": {"name": {"enum": list(names)}, "parameters": {"type": "object", "properties": parameters}},
        "required": ["name"],
    }
