"""Bodies of requests → the bytes of images, or a JSON object.

A body is held in memory, whole, within limits; nothing is written to disk.
"""

import base64
import binascii
import contextlib
import string
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from tenfold.console import plural
from tenfold.files import parse_object
from tenfold.serving.serve.batching import Batcher
from tenfold.serving.serve.encoding import coding_of, decompress
from tenfold.serving.serve.limits import Limits
from tenfold.serving.serve.refusal import RefusalError, busy


class BodyReader:
    """Reads bodies, and knows how much of them is held by all requests together."""

    def __init__(self, limits: Limits, batcher: Batcher):
        self._limits, self._batcher = limits, batcher
        self._held = 0

    @contextlib.asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The whole body, decompressed. Until the block ends it counts as held, and the request as one at work.

        Raises `RefusalError`: 400 or 415 for what cannot be decompressed, 413 or 503.
        """
        coding = coding_of(", ".join(request.headers.getlist("content-encoding")))
        async with self._receive(request) as sent, self._batcher.place():
            if coding is None:
                yield sent
                return
            body = await self._batcher.apart(decompress, sent, coding, self._limits.body)
            with self._hold(len(body)):
                yield body

    @contextlib.asynccontextmanager
    async def _receive(self, request: Request) -> AsyncIterator[bytes]:
        """The body as it is sent."""
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

    @contextlib.contextmanager
    def _hold(self, count: int) -> Iterator[None]:
        """Count so many bytes more as held. No more can be over the limit than there are threads that decompress."""
        self._held += count
        try:
            if self._held > self._limits.held:
                raise busy("too much is being sent at once")
            yield
        finally:
            self._held -= count

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
        raise too_many(limits.images)
    if not any(images):
        raise RefusalError(400, "there is no image in the request")
    if not all(images):
        raise RefusalError(400, f"image {images.index(b'') + 1} of {len(images)} is empty")
    if images[0].lstrip()[:1] == b"{":
        raise RefusalError(400, "this looks like JSON: send it with Content-Type: application/json")
    return images


def too_many(most: int) -> RefusalError:
    """413, for more images than one request may have."""
    return RefusalError(413, f"one request takes at most {plural(most, 'image')}")


def parse_json(body: bytes, most: int) -> dict[str, Any]:
    """A JSON object of at most about so many values: all requests would wait while more are parsed.

    Raises `RefusalError` (400).
    """
    if sum(map(body.count, (b",", b"[", b"{"))) > most:
        raise RefusalError(400, "the JSON holds more values than any request needs")
    try:
        return parse_object(body)
    except ValueError as error:  # its text may hold what was sent, which is none of our business
        raise RefusalError(400, "the body is not a JSON object, or not a sound one") from error


def _from_json(body: bytes) -> list[bytes]:
    message = parse_json(body, most=1_000)
    given = message.get("images", [message.get("image")])
    if len(message) != 1 or not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise RefusalError(400, 'send {"image": base64} or {"images": [base64, …]}')
    try:
        return [_from_base64(text) for text in given]
    except (binascii.Error, ValueError) as error:
        raise RefusalError(400, "an image is not in base64, nor a data: URI in base64") from error


_WHITESPACE = string.whitespace.encode()
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


_ESCAPES = {b"%2B": b"+", b"%2F": b"/", b"%3D": b"=", b"%0A": b"", b"%0D": b"", b"%20": b""}


def _from_base64(text: str) -> bytes:
    """Base64 as people's tools write it: broken into lines, without padding, of either alphabet, or as a data: URI.

    Raises `ValueError` for anything else.
    """
    content = text.strip().encode("ascii")
    if content[:5].lower() == b"data:":
        head, comma, content = content.partition(b",")
        if not comma or not head.lower().endswith(b";base64"):
            raise ValueError("a data: URI that is not in base64")
        for escape, sign in _ESCAPES.items():  # others stand for nothing that base64 has, and are refused below
            content = content.replace(escape, sign).replace(escape.lower(), sign)
    content = content.translate(_URL_SAFE, _WHITESPACE)
    if not content.endswith(b"="):
        content += b"=" * (-len(content) % 4)
    return base64.b64decode(content, validate=True)


# --- forms -----------------------------------------------------------------------------------------------------------

_OTHER_PARTS = 100
"""Parts of a form that may come along with the images."""
_OPTIONS = {b"top", b"reject", b"pixels"}
_IMAGES = {b"image", b"images", b"file", b"files"}


@dataclass
class _Part:
    """One part of a form. filename: None where it has none."""

    name: bytes = b""
    filename: bytes | None = None
    kind: bytes = b"text/plain"
    content: bytearray = field(default_factory=bytearray)

    @property
    def is_file(self) -> bool:
        """Whether it is sent as a file: most clients give a name, some only a type that images may have."""
        kind = self.kind.partition(b";")[0].strip()
        return self.filename is not None or kind.startswith(b"image/") or kind == b"application/octet-stream"

    @property
    def is_unfilled(self) -> bool:
        """Whether it is what browsers send for a file that nobody chose."""
        return self.filename == b"" and not self.content


def _from_multipart(boundary: bytes, body: bytes, most: int) -> list[bytes]:
    """The parts that are files, whatever their names. Text is left alone, unless it was meant for us."""
    reader = _Parts(most + _OTHER_PARTS)
    try:
        parser = MultipartParser(boundary, reader.callbacks())
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError) as error:
        raise RefusalError(400, "the multipart body is not sound") from error
    if not boundary or not reader.ended:
        raise RefusalError(400, "the multipart body is not sound, or cut short")
    for part in reader.parts:
        _check_text(part)
    return [bytes(part.content) for part in reader.parts if part.is_file and not part.is_unfilled]


def _check_text(part: _Part) -> None:
    if part.is_file:
        return
    if part.name in _OPTIONS:
        name = part.name.decode()
        raise RefusalError(400, f"{name} is no field of the form: send it in the address, as /predict?{name}=…")
    if part.name.removesuffix(b"[]").lower() in _IMAGES:
        raise RefusalError(400, "the image is sent as text: give its part of the form a filename")


class _Parts:
    """What the parser finds. Raises `RefusalError` for more than `most` parts."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.parts: list[_Part] = []
        self.ended = False
        self._name, self._value = bytearray(), bytearray()

    def callbacks(self) -> Any:
        """For `MultipartParser`."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_part_data": lambda data, start, end: self.parts[-1].content.extend(data[start:end]),
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.parts) == self._most:
            raise RefusalError(413, f"a form may have at most {self._most} parts")
        self.parts.append(_Part())

    def _end_header(self) -> None:
        value, part = bytes(self._value), self.parts[-1]
        kind, options = parse_options_header(value)
        if self._name.lower() == b"content-disposition":
            is_encoded = b"filename*=" in value.lower()  # of names that are not ASCII, some clients write only this
            part.name, part.filename = options.get(b"name", b""), options.get(b"filename", b"?" if is_encoded else None)
        elif self._name.lower() == b"content-type":
            part.kind = kind.lower()
        self._name.clear()
        self._value.clear()

    def _end(self) -> None:
        self.ended = True
