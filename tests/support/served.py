"""A service to ask: as a process of its own, or in a thread, with limits and a classifier of the test's choice."""

import contextlib
import http.client
import json
import os
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tenfold.serving.model_file import ModelMetadata
from tenfold.serving.predictor import Predictor
from tenfold.serving.serve.app import make_app
from tenfold.serving.serve.guard import Hosts, SecurityMiddleware
from tenfold.serving.serve.limits import Limits
from tenfold.serving.serve.server import bind, make_server
from tests.support.waiting import LONG

HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"
"""How a request for a prediction begins, on the wire."""


@dataclass
class PredictionResult:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Service:
    """Where a service listens, on 127.0.0.1; of a process also its number and the file of its log."""

    port: int
    headers: dict[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None
    log: Path | None = None

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> PredictionResult:
        """One request on a connection of its own. `_` in names of headers stands for `-`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LONG)
        named = self.headers | {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body, named)
            response = connection.getresponse()
            received = {name.lower(): value for name, value in response.getheaders()}
            return PredictionResult(response.status, received, response.read())
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=LONG)

    def rows(self) -> list[dict[str, Any]]:
        """The lines of the log so far. They are written in order, so one more request tells that all are there."""
        assert self.log and self.process
        with contextlib.suppress(OSError):  # it may have ended
            ident = secrets.token_hex(8).encode()
            self.ask("GET", "/healthz", X_Request_ID=ident.decode())
            while ident not in self.log.read_bytes() and self.process.poll() is None:
                time.sleep(0.01)
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def memory(self) -> int:
        """Bytes that it holds, and its processes that decode."""
        assert self.process
        whole, held = psutil.Process(self.process.pid), 0
        for each in (whole, *whole.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):  # those that take too long are replaced
                held += int(each.memory_info().rss)
        return held

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, a terminal's to its processes that decode, too; return the exit code."""
        assert self.process
        for child in psutil.Process(self.process.pid).children() if number == signal.SIGHUP else []:
            child.send_signal(number)
        self.process.send_signal(number)
        return self.process.wait(timeout=LONG)


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def drip(connections: list[socket.socket], piece: bytes, seconds: float) -> list[float]:
    """Send `piece` on each again and again; return after how many seconds each was dropped."""
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            connection.setblocking(False)
            selector.register(connection, selectors.EVENT_READ)
        began, ends = time.monotonic(), []
        while selector.get_map() and time.monotonic() - began < seconds:
            for key, _ in selector.select(0.1):
                with contextlib.suppress(BlockingIOError):
                    if not _receive(key.fileobj):  # type: ignore[arg-type]
                        selector.unregister(key.fileobj)
                        ends.append(time.monotonic() - began)
            for key in list(selector.get_map().values()):
                with contextlib.suppress(OSError):
                    key.fileobj.send(piece)  # type: ignore[union-attr]
    return ends


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(4096)
    except ConnectionError:
        return b""


@contextlib.contextmanager
def process(model: Path, folder: Path, *words: str, **env: str) -> Iterator[Service]:
    """`tenfold serve` as users start it, on a free port."""
    log = folder / "service.log"
    command = [sys.executable, "-m", "tenfold", "serve", "--model", str(model), "--port", "0", *words]
    with log.open("wb") as errors:
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=os.environ | env)
    assert running.stdout
    url = running.stdout.readline().decode().strip()
    assert url, log.read_text()
    try:
        yield Service(int(url.rpartition(":")[2]), process=running, log=log)
    finally:
        running.kill()
        running.wait()
        running.stdout.close()


@contextlib.contextmanager
def in_thread(app: SecurityMiddleware, drain: float = 0.0) -> Iterator[Service]:
    """The service of this process, so that tests may hold it up."""
    app.limits = replace(app.limits, drain=drain)
    bound = bind("127.0.0.1", 0, None)
    server = make_server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    bound.listen()
    app.start()
    thread.start()
    try:
        yield Service(bound.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(timeout=LONG)
        assert not thread.is_alive()
        app.close()


class Slow:
    """A classifier of two classes that answers while `go` is set, and remembers the sizes of its batches.

    distance: the second threshold; then it gives distances, too, the mean of the pixels.
    """

    def __init__(self, threshold: float | None = None, distance: float | None = None):
        self.go = threading.Event()
        self.go.set()
        self.batches: list[int] = []
        about = ModelMetadata(("left", "<b>right</b>"), 4, "stretch", 1.0, threshold, None, False, {})
        about = about if distance is None else replace(about, distance={"threshold": distance})
        self.classifier = Predictor(about, "0" * 64, "none", self._run)

    def _run(self, images: np.ndarray) -> list[np.ndarray]:
        self.batches.append(len(images))
        assert self.go.wait(30)
        mean = images.reshape(len(images), -1).mean(1).astype(np.float32)
        outputs = [np.stack([1 - mean / 255, mean / 255], 1), mean]
        return outputs if self.classifier.about.distance else outputs[:1]


def slow_app(slow: Slow, limits: Limits | None = None, token: str | None = None) -> SecurityMiddleware:
    return make_app(slow.classifier, "slow", Hosts("127.0.0.1"), token, limits)
