"""A publisher on the loopback address that misbehaves on request."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Publisher:
    """Serves `content` at `url`; each request is answered by the next of `answers`, the last one again and again.

    ranges: the Range header of each request so far (None where there was none).
    half_sent: set when a half answer has gone out. released: set to let waiting answers end.
    """

    def __init__(self, content: bytes, *answers: str) -> None:
        self.content = content
        self.answers = list(answers or ["whole"])
        self.ranges: list[str | None] = []
        self.half_sent = threading.Event()
        self.released = threading.Event()
        self.url = ""

    def next_answer(self) -> str:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Handler(BaseHTTPRequestHandler):
    publisher: Publisher

    def do_GET(self) -> None:
        self.publisher.ranges.append(self.headers.get("Range"))
        self.close_connection = True
        with contextlib.suppress(ConnectionError):
            getattr(self, self.publisher.next_answer())()

    def log_message(self, *_: object) -> None:
        """Silence."""

    def start(self, total: int, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(total))
        self.end_headers()

    def rest(self) -> bytes:
        """Announce what the request asks for, with range support, and return it."""
        content, asked = self.publisher.content, self.headers.get("Range")
        first = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if asked and first >= len(content):
            self.start(0, 416)
            return b""
        self.start(len(content) - first, 206 if asked else 200)
        return content[first:]

    def whole(self) -> None:
        self.wfile.write(self.rest())

    def cut(self) -> None:
        """Half of it, and the connection is closed."""
        rest = self.rest()
        self.wfile.write(rest[: len(rest) // 2])

    def without_range(self) -> None:
        self.start(len(self.publisher.content))
        self.wfile.write(self.publisher.content)

    def cut_without_range(self) -> None:
        self.start(len(self.publisher.content))
        self.wfile.write(self.publisher.content[:1000])

    def half(self) -> None:
        """Half of it, and the rest when the test says so."""
        rest = self.rest()
        self.wfile.write(rest[: len(rest) // 2])
        self.publisher.half_sent.set()
        self.publisher.released.wait()
        self.wfile.write(rest[len(rest) // 2 :])

    def silence(self) -> None:
        self.publisher.released.wait()

    def drip_header(self) -> None:
        """A header that never ends: each byte comes in time, the answer never does."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not self.publisher.released.wait(0.02):
            self.wfile.write(b"x")

    def crawl(self) -> None:
        for byte in self.rest():
            self.wfile.write(bytes([byte]))
            if self.publisher.released.wait(0.02):
                return

    def endless(self) -> None:
        self.start(2**40)
        while True:
            self.wfile.write(bytes(2**16))

    def html(self) -> None:
        page = b"<!DOCTYPE html><title>Log in to the network</title>"
        self.start(len(page))
        self.wfile.write(page)

    def wrong(self) -> None:
        content = bytearray(self.publisher.content)
        content[len(content) // 2] ^= 1
        self.start(len(content))
        self.wfile.write(content)

    def missing(self) -> None:
        self.start(0, 404)

    def garbage(self) -> None:
        self.wfile.write(b"\x00\x01\x02\r\n\r\n")


@contextlib.contextmanager
def serve(publisher: Publisher) -> Iterator[Publisher]:
    handler = type("Bound", (Handler,), {"publisher": publisher})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        publisher.url = f"http://127.0.0.1:{server.server_port}/cifar-10-binary.tar.gz"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield publisher
        finally:
            publisher.released.set()
            server.shutdown()
            thread.join()
