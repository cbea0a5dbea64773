"""Bodies of requests → the bytes of images, or the pixels that the Open Inference Protocol sends.

A body is held in memory, whole, within limits; nothing is written to disk.
"""

import base64
import binascii
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from tenfold.files import parse_object
from tenfold.serving.serve.limits import Limits
from tenfold.serving.serve.refusal import RefusalError, busy


class Bodies:
    """Reads bodies, and knows how much of them is held by all requests together."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self._held = 0

    @contextlib.asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The whole body; it counts as held until the block ends. Raises `RefusalError`: 413, 415 or 503."""
        if request.headers.get("content-encoding", "identity") != "identity":
            raise RefusalError(415, "send the body uncompressed, without Content-Encoding")
        if int(request.headers.get("content-length", 0)) > self._limits.body:
            raise self._too_large()
        body = bytearray()
        try:
            async for chunk in request.stream():
                self._held += len(chunk)
                body += chunk
                if len(body) > self._limits.body:
                    raise self._too_large()
                if self._held > self._limits.held:
                    raise busy("too much is being sent at once")
            yield bytes(body)
        finally:
            self._held -= len(body)

    def _too_large(self) -> RefusalError:
        return RefusalError(413, f"the body is larger than {self._limits.body:,} bytes")


def images_of(content_type: str, body: bytes, limits: Limits) -> list[bytes]:
    """The image files in a body: multipart/form-data, JSON with base64, or else one file as it is.

    Raises `RefusalError`: 400, or 413 for too many.
    """
    kind, options = parse_options_header(content_type)
    if kind == b"multipart/form-data":
        images = _from_multipart(options.get(b"boundary", b""), body, limits.images)
    elif kind == b"application/json":
        images = _from_json(body)
    else:
        images = [body]
    if len(images) > limits.images:
        raise _too_many(limits.images)
    if not any(images):
        raise RefusalError(400, "there is no image in the request")
    if not all(images):
        raise RefusalError(400, f"image {images.index(b'') + 1} of {len(images)} is empty")
    if images[0].lstrip()[:1] == b"{":
        raise RefusalError(400, "this looks like JSON: send it with Content-Type: application/json")
    return images


def _too_many(most: int) -> RefusalError:
    return RefusalError(413, f"one request takes at most {most} images")


def _object(body: bytes, most: int) -> dict[str, Any]:
    """JSON of at most about so many values: all requests would wait while more are parsed."""
    if sum(map(body.count, (b",", b"[", b"{"))) > most:
        raise RefusalError(400, "the JSON holds more values than any request needs")
    try:
        return parse_object(body)
    except ValueError as error:  # its text may hold what was sent, which is none of our business
        raise RefusalError(400, "the body is not a JSON object, or not a sound one") from error


def _from_json(body: bytes) -> list[bytes]:
    told = _object(body, most=1_000)
    given = told.get("images", [told.get("image")])
    if len(told) != 1 or not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise RefusalError(400, 'send {"image": base64} or {"images": [base64, …]}')
    try:
        return [base64.b64decode(text, validate=True) for text in given]
    except (binascii.Error, ValueError) as error:
        raise RefusalError(400, "an image is not in base64") from error


def _from_multipart(boundary: bytes, body: bytes, most: int) -> list[bytes]:
    """The parts that are files, whatever their names."""
    reader = _Parts(most)
    try:
        parser = MultipartParser(boundary, reader.callbacks())
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError) as error:
        raise RefusalError(400, "the multipart body is not sound") from error
    if not boundary or not reader.ended:
        raise RefusalError(400, "the multipart body is not sound, or cut short")
    if not all(reader.are_files):
        raise RefusalError(400, "each part must be a file: give it a filename")
    return [bytes(part) for part in reader.parts]


class _Parts:
    """What the parser finds: contents of the parts, and whether each is a file."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.parts: list[bytearray] = []
        self.are_files: list[bool] = []
        self.ended = False
        self._name, self._value = bytearray(), bytearray()

    def callbacks(self) -> Any:
        """For `MultipartParser`."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_part_data": lambda data, start, end: self.parts[-1].extend(data[start:end]),
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.parts) == self._most:
            raise _too_many(self._most)
        self.parts.append(bytearray())
        self.are_files.append(False)

    def _end_header(self) -> None:
        if self._name.lower() == b"content-disposition":
            self.are_files[-1] = b"filename" in parse_options_header(bytes(self._value))[1]
        self._name.clear()
        self._value.clear()

    def _end(self) -> None:
        self.ended = True


# --- Open Inference Protocol, version 2 --------------------------------------------------------------------------

INPUT, OUTPUT = "images", "probabilities"


def pixels_of(body: bytes, size: int, limits: Limits) -> tuple[str | None, np.ndarray]:
    """The request's id and its uint8 N×S×S×3. Raises `RefusalError` (400, or 413 for too many)."""
    told = _object(body, most=2 * limits.images * size * size * 3 + 1_000)
    ident, inputs, outputs = told.get("id"), told.get("inputs"), told.get("outputs")
    if not isinstance(ident, str | None) or not (ident or "").isprintable():
        raise RefusalError(400, "id must be a printable text")
    if outputs is not None and not (isinstance(outputs, list) and all(map(_is_output, outputs))):
        raise RefusalError(400, f"the one output is {OUTPUT}")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise RefusalError(400, "give one input")
    return ident, _tensor(inputs[0], size, limits)


def _is_output(told: Any) -> bool:
    return isinstance(told, dict) and told.get("name") == OUTPUT


def _tensor(told: dict[str, Any], size: int, limits: Limits) -> np.ndarray:
    shape = told.get("shape")
    if told.get("name") != INPUT or told.get("datatype") != "UINT8" or not isinstance(shape, list):
        raise RefusalError(400, f"the input is {INPUT}, of datatype UINT8")
    sound = len(shape) == 4 and all(type(side) is int for side in shape)
    if not sound or shape[0] < 1 or shape[1:] != [size, size, 3]:
        raise RefusalError(400, f"the shape must be [N, {size}, {size}, 3]")
    if shape[0] > limits.images:
        raise _too_many(limits.images)
    data = told.get("data")
    if not isinstance(data, list):
        raise RefusalError(400, "data must be a list")
    flat = list(_flat(data, depth=4))
    try:
        if len(flat) != shape[0] * size * size * 3 or set(map(type, flat)) != {int}:
            raise ValueError
        return np.frombuffer(bytes(flat), np.uint8).reshape(shape)  # bytes: none below 0 or above 255
    except ValueError:
        raise RefusalError(400, "data must hold as many whole numbers from 0 to 255 as the shape says") from None


def _flat(data: list[Any], depth: int) -> Iterator[Any]:
    """Numbers in row-major order, from a flat list or a nested one."""
    for item in data:
        if isinstance(item, list) and depth > 1:
            yield from _flat(item, depth - 1)
        else:
            yield item
