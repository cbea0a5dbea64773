"""Clients that are slow, greedy, broken or too many, on real sockets.

Each protection was taken out once; the docstrings say what the test showed then.
"""

import base64
import contextlib
import errno
import gc
import http.client
import io
import json
import logging
import os
import re
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tenfold.data.image import decode
from tenfold.errors import ImageError, StorageError
from tenfold.serving.predictor import BUNDLED
from tenfold.serving.serve.batching import MOST_DECODERS
from tenfold.serving.serve.decoders import Decoders
from tenfold.serving.serve.limits import Limits
from tenfold.serving.serve.linger import LingeringTransport
from tests.support.served import HEAD, Service, Slow, drip, in_thread, process, read_all, slow_app
from tests.support.waiting import LONG, wait_for

QUICK = Limits(arrival=0.5, reading=0.5, seconds=0.5, connections=150)
PATIENT = Limits(seconds=60.0)
"""For tests of something else than this limit, on however busy a machine."""


def picture(grey: int = 255, size: int = 4) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), grey, np.uint8)).save(content, "PNG")
    return content.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of 66 bytes that claims so many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")[:8]) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


def many_scans() -> bytes:
    """A grey progressive JPEG, 5,792 pixels a side, with a scan for all its blocks, then 5,000 that add nothing."""
    side, blocks = 5792, 724 * 724
    head = (
        b"\xff\xd8\xff\xdb\0\x43\0"
        + b"\1" * 64
        + b"\xff\xc2"
        + struct.pack(">HBHHB", 11, 8, side, side, 1)
        + b"\1\x11\0"
    )
    tables = b"".join(
        b"\xff\xc4" + struct.pack(">HB", 20, kind) + bytes([1] + [0] * 15) + symbol
        for kind, symbol in ((0x00, b"\0"), (0x10, b"\xe0"))
    )
    first = b"\xff\xda" + struct.pack(">HB", 8, 1) + b"\1\0\0\0\1" + bytes(blocks // 8 + 1)
    runs = "0" + "1" * 14  # a run of 32,767 blocks that end at once
    bits = runs * (blocks // 32767 + 1)
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\0")
    empty = b"\xff\xda" + struct.pack(">HB", 8, 1) + b"\1\0\1\x3f\0" + data
    return head + tables + first + empty * 5000 + b"\xff\xd9"


@pytest.fixture(scope="session")
def model() -> Path:
    """The bundled one: what it answers does not matter here."""
    return BUNDLED


@pytest.fixture(scope="module")
def service(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with process(model, tmp_path_factory.mktemp("faults")) as running:
        running.ask("POST", "/predict", picture())
        yield running


# --- slow clients ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "piece"),
    [
        (b"", b""),
        (b"POST /predict HTTP/1.1\r\nX: ", b"a"),
        (HEAD + b"Content-Length: 100000\r\n\r\n", b"a"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b""),
    ],
    ids=["idle", "head", "body", "chunks", "idle after an answer"],
)
def test_slow_clients_are_dropped_and_nobody_else(first: bytes, piece: bytes) -> None:
    """100 of them. Without the sweep all are there after ten seconds, except those idle after an answer."""
    with in_thread(slow_app(Slow(), QUICK)) as service, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(service.connect()) for _ in range(100)]
        for connection in slow:
            connection.sendall(first)
        with ThreadPoolExecutor(1) as pool:
            dripping = pool.submit(drip, slow, piece, 10)
            while not dripping.done():
                assert service.ask("POST", "/predict", picture()).status == 200
            assert len(dripping.result()) == 100


def test_a_connection_that_cannot_be_ended_ends_no_other_s_deadline() -> None:
    """The error of one client who was gone already ended the task that watches over all."""

    class Gone:
        aborted = False

        def write_eof(self) -> None:
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

        def abort(self) -> None:
            self.aborted = True

    gone = Gone()
    transport = LingeringTransport(gone, lambda: None)
    transport.end()
    assert transport.is_ended and gone.aborted


def test_what_is_dropped_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """A request as the 408 that its client reads, with the reason; what never became a request by a line of its own."""
    caplog.set_level(logging.INFO, "tenfold.serve")
    body, head = HEAD + b"Content-Length: 100\r\n\r\n", b"POST /predict HTTP/1.1\r\nX: "
    with in_thread(slow_app(Slow(), QUICK)) as service, service.connect() as late, service.connect() as later:
        late.sendall(body)
        later.sendall(head)
        for connection in (late, later):
            assert read_all(connection).startswith(b"HTTP/1.1 408")
        assert wait_for(lambda: len(caplog.records) >= 2)
    reply = [(record.getMessage(), record.__dict__["fields"]) for record in caplog.records]
    (request,) = [row for event, row in reply if event == "request"]
    assert (request["status"], request["route"], request["dropped"]) == (408, "/predict", "sends too slowly")
    assert ("dropped", {"reason": "sends too slowly", "client": "127.0.0.1"}) in reply


def test_who_sends_steadily_is_heard_out() -> None:
    """Three times as long as an idle one would be; the deadline moves with what has arrived."""
    limits = Limits(arrival=1.0, bytes_per_second=1000)
    content = picture().ljust(9_000, b"\0")
    with in_thread(slow_app(Slow(), limits)) as service, service.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: 9000\r\n\r\n")
        for at in range(0, 9_000, 300):
            assert not select_readable(connection, 0.1)
            connection.sendall(content[at : at + 300])
        assert connection.recv(20).startswith(b"HTTP/1.1 200")


def select_readable(connection: socket.socket, seconds: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        return bool(selector.select(seconds))


def test_who_takes_no_answers_is_dropped() -> None:
    """Without the deadline for reading, the connection and what waits in it stay for good."""
    app = slow_app(Slow(), QUICK)
    with in_thread(app) as service, service.connect() as connection:
        connection.setblocking(False)
        asks = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000
        with contextlib.suppress(BlockingIOError):
            for _ in range(20):
                connection.send(asks)
        assert wait_for(lambda: b'reason="reads too slowly"} 1.0' in app.watch.text())


def test_one_connection_too_many_drops_the_one_that_waits_longest() -> None:
    """Without it, 150 idle sockets would be followed by as many as the system allows."""
    limits = Limits(connections=150)
    with in_thread(slow_app(Slow(), limits)) as service, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(service.connect()) for _ in range(150)]
        assert service.ask("GET", "/healthz").status == 200
        assert idle[0].recv(1) == b""
        assert not select_readable(idle[1], 0.05)


# --- large bodies ----------------------------------------------------------------------------------------------------


def test_large_bodies_are_refused_and_not_kept(service: Service) -> None:
    """With a length: at once, by its head. Without: when the limit is passed; the rest is read and thrown away.

    Without the limit for chunks, the answer was 503, after 128 MB were held.
    """
    limit, before = Limits().body, service.memory()
    with service.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % (limit + 1))
        assert connection.recv(20).startswith(b"HTTP/1.1 413")
    for _ in range(3):
        chunk = b"100000\r\n" + b"a" * 2**20 + b"\r\n"
        with service.connect() as connection:
            connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                for _ in range(160):
                    connection.sendall(chunk)
                connection.sendall(b"0\r\n\r\n")
            assert connection.recv(20).startswith(b"HTTP/1.1 413")
    assert service.memory() - before < 60e6


def test_after_an_early_answer_the_next_request_is_heard(service: Service) -> None:
    """Once what followed was thrown away, up to the next request, which waited until the connection was closed."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=LONG)
    for _ in range(3):
        connection.request("POST", "/predict?top=0", b"a" * 2**20)
        refused = connection.getresponse()
        assert refused.status == 400 and refused.read()
        connection.request("GET", "/healthz")
        heard = connection.getresponse()
        assert heard.status == 200 and heard.read()
    connection.close()


def test_who_was_refused_and_sends_on_is_dropped() -> None:
    """Without lingering's end, an endless body is read for ever."""
    with in_thread(slow_app(Slow(), Limits(body=1000))) as service, service.connect() as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        (after,) = drip([connection], b"400\r\n" + b"a" * 1024 + b"\r\n", 10)
        assert after < 5


def test_bodies_together_have_a_limit() -> None:
    """Without it, whoever sends many bodies at once fills the memory."""
    with in_thread(slow_app(Slow(), Limits(held=10_000))) as service, service.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: 9000\r\n\r\n" + b"a" * 8_000)
        assert wait_for(lambda: service.ask("POST", "/predict", b"a" * 3_000).status == 503)
        connection.sendall(b"a" * 1_000)
        assert connection.recv(20).startswith(b"HTTP/1.1 400")
        assert service.ask("POST", "/predict", b"a" * 3_000).status == 400


@pytest.mark.parametrize(("width", "height"), [(13_000, 13_000), (2**31 - 1, 2**31 - 1), (6_000, 6_000)])
def test_decompression_bombs(service: Service, width: int, height: int) -> None:
    """Refused by what their header claims. Without the cap, the answer is 400 after half a gigabyte for the first."""
    before = service.memory()
    for _ in range(20):
        answered = service.ask("POST", "/predict", bomb(width, height))
        assert answered.status == 413 and "pixels" in answered.json()["error"]
    assert service.memory() - before < 20e6


@pytest.mark.slow
def test_a_photo_of_50_megapixels_is_answered_as_predict_does() -> None:
    """A JPEG is, in the time and memory of any image; a PNG of so many pixels is refused by its header."""
    photo = Image.new("RGB", (8_160, 6_144), (200, 30, 60))
    photo.paste((20, 200, 90), (4_080, 0, 8_160, 6_144))
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=90, progressive=True)
    with in_thread(slow_app(Slow(), PATIENT)) as service:
        answered = service.ask("POST", "/predict?pixels=1", file.getvalue())
        assert answered.status == 200
        pixels = base64.b64decode(answered.json()["predictions"][0]["pixels"])
        assert pixels == decode(file.getvalue(), 4).tobytes()
        refused = service.ask("POST", "/predict", bomb(8_160, 6_144))
        assert refused.status == 413
        assert refused.json()["error"].endswith(
            "8,160 × 6,144 pixels are more than the 33,554,432 that are read; a JPEG may have 67,108,864"
        )


# --- too many requests -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_holds_a_decoder_up_is_ended() -> None:
    """A progressive JPEG of thousands of empty scans. In a thread it decoded for minutes, and all others waited."""
    with in_thread(slow_app(Slow(), replace(PATIENT, decoding=0.3))) as service:
        for _ in range(2 * MOST_DECODERS):
            answered = service.ask("POST", "/predict", many_scans())
            assert answered.status == 400 and "not read within 0.3 seconds" in answered.json()["error"]
        assert service.ask("POST", "/predict", picture()).status == 200


def test_only_time_computed_counts_against_an_image() -> None:
    """Large photographs were refused, as if they were at fault, where a training run had the cores."""
    decoders = Decoders(1, 4, "stretch", Limits(decoding=0.3, seconds=2.0))
    decoders.start()
    with ThreadPoolExecutor(1) as thread, contextlib.closing(decoders):
        decoder = decoders._idle.get()
        decoders._idle.put(decoder)
        assert decoder is not None
        decoder.send_signal(signal.SIGSTOP)
        pixels = thread.submit(decoders.decode, picture())
        time.sleep(1)
        decoder.send_signal(signal.SIGCONT)
        assert pixels.result().shape == (4, 4, 3)
        decoder.send_signal(signal.SIGSTOP)
        with pytest.raises(TimeoutError):  # by now nobody waits for the answer
            decoders.decode(picture())
        assert decoders.decode(picture()).shape == (4, 4, 3)


def test_processes_that_cannot_be_begun_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their places were lost, and the end of the service waited for them for ever."""
    decoders = Decoders(3, 4, "stretch", Limits())
    begin, allowed = Decoders._begin, iter([True])

    def begin_one(self: Decoders) -> "subprocess.Popen[bytes]":
        if not next(allowed, False):
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return begin(self)

    monkeypatch.setattr(Decoders, "_begin", begin_one)
    with pytest.raises(StorageError, match=r"no process to decode images in can be started: .*Resource temporarily"):
        decoders.start()
    monkeypatch.undo()
    monkeypatch.setattr(decoders, "_command", [sys.executable, "-c", ""])
    with pytest.raises(StorageError, match="can be started"):
        decoders.start()
    decoders.close()


@pytest.mark.slow
def test_what_takes_too_much_memory_is_refused() -> None:
    """Without the limit the second is read, too."""
    content = picture(size=5000)  # 75 MB of pixels
    for memory, is_read in ((2**30, True), (2**26, False)):
        decoders = Decoders(1, 4, "stretch", replace(PATIENT, memory=memory))
        try:
            with contextlib.nullcontext() if is_read else pytest.raises(ImageError):
                assert decoders.decode(content).shape == (4, 4, 3)
        finally:
            decoders.close()


def test_bodies_that_were_answered_are_not_held() -> None:
    """Without giving back what is held, the third is refused."""
    with in_thread(slow_app(Slow(), Limits(held=2 * len(picture())))) as service:
        assert [service.ask("POST", "/predict", picture()).status for _ in range(5)] == [200] * 5


def test_many_small_chunks_hold_nobody_up() -> None:
    """Sixty clients send a chunk a byte. Parsed as they came, health took eleven seconds."""
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with in_thread(slow_app(Slow())) as service, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(service.connect()) for _ in range(60)]
        for client in clients:
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.send(head + b"1\r\na\r\n" * 40_000)
        began = time.process_time()  # the service runs in this process; a busy machine takes none of its time
        assert service.ask("GET", "/healthz").status == 200
        assert time.process_time() - began < 3


def test_requests_sent_ahead_get_their_own_answers() -> None:
    """While the first is at work, no refusal may be written in its place. It was, and its answer was lost."""
    slow = Slow()
    content = picture()
    post = HEAD + b"Content-Length: %d\r\n\r\n" % len(content) + content
    with in_thread(slow_app(slow, Limits(waiting=1))) as service, service.connect() as client:
        slow.go.clear()
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" + post)
        assert wait_for(lambda: b"tenfold_requests_waiting 1.0" in service.ask("GET", "/metrics").body)
        client.sendall(post)
        slow.go.set()
        reply = b""
        while reply.count(b"HTTP/1.1") < 3:
            reply += client.recv(65536)
    assert re.findall(rb"HTTP/1\.1 (\d+)", reply) == [b"200", b"200", b"200"]


def test_two_lengths_of_one_body_are_refused() -> None:
    sent = HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\n\r\n"
    with in_thread(slow_app(Slow())) as service, service.connect() as client:
        client.sendall(sent)
        reply = read_all(client)
    assert reply.startswith(b"HTTP/1.1 400") and reply.count(b"HTTP/1.1") == 1


@pytest.mark.slow
def test_a_log_that_nobody_reads_holds_nobody_up(model: Path) -> None:
    """Written by those who answer, it stood still after 350 requests, and SIGTERM had no effect."""
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "tenfold", "serve", "--model", str(model), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=writing) as running:
        assert running.stdout
        service = Service(int(running.stdout.readline().decode().rpartition(":")[2]), process=running)
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=LONG)
        for _ in range(1000):
            connection.request("GET", "/healthz")
            assert connection.getresponse().read()
        connection.close()
        assert service.end() == 0
    os.close(reading)
    os.close(writing)


@pytest.mark.slow
def test_few_open_files_are_said(model: Path) -> None:
    """With 64, each connection too many was reported 512 times."""
    script = f"ulimit -n 64; exec {sys.executable} -m tenfold serve --port 0 --model {model}"
    ended = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=LONG, check=False)
    assert ended.returncode == 2 and "raise ulimit -n" in ended.stderr


def test_looking_for_garbage_holds_nobody_up() -> None:
    """What was there at the start is left out: of this process, 0.3 seconds' work for the collector."""
    with in_thread(slow_app(Slow())) as service:
        assert service.ask("GET", "/healthz").status == 200
        assert gc.get_freeze_count() > 50_000
    assert gc.get_freeze_count() == 0


def test_one_request_too_many_is_refused_at_once() -> None:
    """By its first bytes, and where they are late, by the application; health goes on. Without: they wait for good."""
    slow = Slow()
    slow.go.clear()
    with in_thread(slow_app(slow, replace(PATIENT, waiting=4))) as service, ThreadPoolExecutor(5) as pool:
        waiting = [pool.submit(service.ask, "POST", "/predict", picture(grey)) for grey in (0, 85, 170, 255)]
        assert wait_for(lambda: b"tenfold_requests_waiting 4.0" in service.ask("GET", "/metrics").body)
        with service.connect() as connection:
            whole = b"Content-Length: %d\r\n\r\n" % len(picture()) + picture()
            for first, rest in ((HEAD, whole), (HEAD[:10], HEAD[10:] + whole)):
                answered = _exchange(service, first, rest)  # it would wait for thirty seconds
                assert answered.startswith(b"HTTP/1.1 503") and b"\r\nretry-after: 1\r\n" in answered
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(20).startswith(b"HTTP/1.1 200")
        assert b"tenfold_refused_total 1.0" in service.ask("GET", "/metrics").body  # by its first bytes
        slow.go.set()
        reply = [request.result().json()["predictions"][0]["probability"] for request in waiting]
        assert reply == pytest.approx([1, 2 / 3, 2 / 3, 1], abs=1e-6)
        assert service.ask("POST", "/predict", picture()).status == 200


def _exchange(service: Service, first: bytes, rest: bytes) -> bytes:
    with service.connect() as connection:
        connection.sendall(first)
        select_readable(connection, 0.05)
        connection.sendall(rest)
        with connection.makefile("rb") as file:
            return file.read(400)


def test_what_waits_is_answered_together() -> None:
    """While one image is computed, seven gather."""
    slow = Slow()
    app = slow_app(slow)
    with in_thread(app) as service, ThreadPoolExecutor(8) as pool:
        slow.go.clear()
        first = pool.submit(service.ask, "POST", "/predict", picture())
        assert wait_for(lambda: slow.batches[-1:] == [1])
        others = [pool.submit(service.ask, "POST", "/predict", picture()) for _ in range(7)]
        assert wait_for(lambda: len(app._batcher._waiting) == 7)
        slow.go.set()
        assert {request.result().status for request in (first, *others)} == {200}
    assert slow.batches[-2:] == [1, 7]


def test_many_images_of_one_let_those_of_others_come_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """All given to the decoders at once, the other's single image was answered after them."""
    app, begun = slow_app(Slow()), threading.Event()

    def decode(content: bytes) -> np.ndarray:
        begun.set()
        time.sleep(0.1)
        return np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr(app._batcher.decoders, "decode", decode)
    many = json.dumps({"images": [base64.b64encode(picture()).decode()] * 32})
    with in_thread(app) as service, ThreadPoolExecutor(1) as pool:
        first = pool.submit(service.ask, "POST", "/predict", many, Content_Type="application/json")
        assert begun.wait(10)
        assert service.ask("POST", "/predict", picture()).status == 200
        assert not first.done()
        assert len(first.result().json()["predictions"]) == 32


def test_what_takes_too_long_is_given_up() -> None:
    """Without the time limit the request waits for as long as the model takes. Afterwards all is as before."""
    slow = Slow()
    with in_thread(slow_app(slow, QUICK)) as service:
        slow.go.clear()
        answered = service.ask("POST", "/predict", picture())
        assert (answered.status, answered.headers["retry-after"]) == (503, "1")
        slow.go.set()
        assert wait_for(lambda: service.ask("POST", "/predict", picture()).status == 200)


def test_a_failure_of_ours_is_said_without_details(caplog: pytest.LogCaptureFixture) -> None:
    """And the service goes on; what failed is in the log only."""
    slow = Slow()
    with in_thread(slow_app(slow)) as service:
        slow.classifier._run = lambda images: (_ for _ in ()).throw(RuntimeError("/secret/path"))
        answered = service.ask("POST", "/predict", picture())
        assert answered.status == 500 and "secret" not in answered.body.decode()
        slow.classifier._run = slow._run
        assert service.ask("POST", "/predict", picture()).status == 200
    assert "/secret/path" in caplog.text


# --- broken clients --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0" * 1000,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\na",
        HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        HEAD + b"X-Request-ID: \xff\r\nAuthorization: \xff\r\nContent-Length: 0\r\n\r\n",
        b"CONNECT evil.example:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /%00%ff/..%2f..%2fetc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ],
)
def test_what_is_no_sound_http(service: Service, sent: bytes) -> None:
    """An answer below 500, or none; then the service is as it was."""
    with service.connect() as connection:
        connection.sendall(sent)
        with contextlib.suppress(OSError):  # "not connected" where it was reset by now
            connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            answered = connection.recv(100)
            assert not answered or answered.split()[1] < b"500"
    assert service.ask("GET", "/healthz").status == 200
    assert not [row for row in service.rows() if row["level"] == "error"]


def test_what_is_malformed_is_answered_as_all_errors_are(service: Service) -> None:
    with service.connect() as connection:
        connection.sendall(b"\x16\x03\x01 no request\r\n\r\n")
        head, body = read_all(connection).split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400") and b"application/json" in head
    assert json.loads(body) == {"error": "this is no sound HTTP request"}


def test_who_goes_on_sending_what_is_malformed_reads_why(service: Service) -> None:
    """What arrives after the answer does not destroy it. Without: connection reset."""
    with service.connect() as connection:
        connection.sendall(b"GET /" + b"a" * 100_000)
        time.sleep(0.3)  # it is refused by now
        connection.sendall(b"a" * 100_000)
        time.sleep(0.1)
        assert read_all(connection).startswith(b"HTTP/1.1 431")


def test_clients_that_go_away(service: Service) -> None:
    """In the middle of a body, or before the answer: nothing is held, nothing fails."""
    content = picture()
    for length in (len(content), len(content) + 10):
        with service.connect() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % length + content)
    waiting = b"tenfold_requests_waiting 0.0"
    assert wait_for(lambda: waiting in service.ask("GET", "/metrics").body)
    assert wait_for(lambda: any(row.get("status") == 499 for row in service.rows()))
    assert not [row for row in service.rows() if row["level"] == "error"]


# --- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_lets_requests_in_flight_finish(model: Path, tmp_path: Path, number: int) -> None:
    """One that is half sent is answered when it is whole; an idle one is let go. Without draining: connection reset."""
    content = picture(size=32)
    with process(model, tmp_path) as service, service.connect() as half, service.connect() as idle:
        half.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(content) + content[:20])
        assert service.ask("GET", "/healthz").status == 200
        with ThreadPoolExecutor(1) as pool:
            code = pool.submit(service.end, number)
            assert idle.recv(1) == b""
            with pytest.raises(OSError):
                service.connect()
            assert not select_readable(half, 0.5)
            half.sendall(content[20:])
            answered = read_all(half)
            assert answered.startswith(b"HTTP/1.1 200") and b"predictions" in answered
            assert code.result() == 0
        assert service.rows()[-1]["event"] == "stopped"


@pytest.mark.slow
def test_sigterm_does_not_wait_for_those_who_send_nothing(model: Path, tmp_path: Path) -> None:
    """Without an end to the wait the process stays as long as the client likes."""
    with process(model, tmp_path) as service, service.connect() as half:
        half.sendall(HEAD + b"Content-Length: 100\r\n\r\n")
        assert service.ask("GET", "/healthz").status == 200
        assert service.end() == 0  # which waits for thirty seconds


@pytest.mark.slow
def test_a_second_interruption_leaves_no_trace(model: Path, tmp_path: Path) -> None:
    """Without the filter: sixty lines about a KeyboardInterrupt.

    Without closing the connections, on Python 3.12 and later: eight seconds more, and an error about a cancelled task.
    """
    with process(model, tmp_path) as service, service.connect() as half:
        half.sendall(HEAD + b"Content-Length: 100\r\n\r\n")
        assert service.ask("GET", "/healthz").status == 200
        assert service.process
        service.process.send_signal(signal.SIGINT)
        assert wait_for(lambda: _is_closed(service))
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(timeout=LONG) == 0
        assert [row for row in service.rows() if row["level"] == "error"] == []


def _is_closed(service: Service) -> bool:
    try:
        service.connect().close()
    except OSError:
        return True
    return False
