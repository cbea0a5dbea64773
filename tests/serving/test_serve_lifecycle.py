"""What clients, proxies and operators see: every answer counted, a gentle end, answers that can be read.

Each test failed before what it tests was there; the docstrings say how.
"""

import contextlib
import http.client
import io
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from tenfold.errors import UsageError
from tenfold.serving.predictor import BUNDLED
from tenfold.serving.serve.guard import Hosts
from tenfold.serving.serve.limits import Limits
from tests.support.process import ROOT
from tests.support.served import HEAD, PredictionResult, Service, Slow, in_thread, process, read_all, slow_app
from tests.support.waiting import LONG, wait_for

LARGE = 17 * 2**20


def picture(grey: int = 255) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), grey, np.uint8)).save(content, "PNG")
    return content.getvalue()


def exchange(service: Service, sent: bytes) -> bytes:
    """Send it on a connection of its own, and read until the other side closes."""
    with service.connect() as connection:
        connection.sendall(sent)
        return read_all(connection)


def read_answer(connection: socket.socket) -> PredictionResult:
    """One answer; the connection stays open. What comes before it, as 100, is passed over."""
    answered = http.client.HTTPResponse(connection)
    answered.begin()
    headers = {name.lower(): value for name, value in answered.getheaders()}
    return PredictionResult(answered.status, headers, answered.read())


def counted(service: Service) -> dict[tuple[str, str], int]:
    """Requests by route and status, as the metrics tell them."""
    text = service.ask("GET", "/metrics").body.decode()
    found = re.findall(r'^tenfold_requests_total\{route="(.*)",status="(\d+)"\} (\S+)$', text, re.MULTILINE)
    return {(route, status): int(float(value)) for route, status, value in found}


def metric(service: Service, name: str) -> float:
    text = service.ask("GET", "/metrics").body.decode()
    (value,) = re.findall(rf"^{name} (\S+)$", text, re.MULTILINE)
    return float(value)


# --- every answer is counted -----------------------------------------------------------------------------------------


def test_every_refusal_is_counted_and_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever writes it. Of 503s written before anything was parsed, neither the numbers nor the log showed one."""
    caplog.set_level(logging.INFO, "tenfold.serve")
    slow = Slow()
    slow.go.clear()
    body = b"Content-Length: %d\r\n\r\n" % len(picture()) + picture()
    with in_thread(slow_app(slow, Limits(waiting=1))) as service, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(service.ask, "POST", "/predict", picture())
        assert wait_for(lambda: b"tenfold_requests_waiting 1.0" in service.ask("GET", "/metrics").body)
        for _ in range(40):
            assert exchange(service, HEAD + body).startswith(b"HTTP/1.1 503")
        for _ in range(3):
            infer = HEAD.replace(b"/predict", b"/v2/models/slow/infer")
            assert exchange(service, infer + body).startswith(b"HTTP/1.1 503")
        assert exchange(service, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")
        assert exchange(service, b"GET /" + b"a" * 100_000).startswith(b"HTTP/1.1 431")
        slow.go.set()
        assert waiting.result().status == 200
        reply = counted(service)
    assert reply.pop(("/metrics", "200")) >= 1
    assert reply == {
        ("/predict", "503"): 40,
        ("/v2/models/{name}/infer", "503"): 3,
        ("unread", "400"): 1,
        ("unread", "431"): 1,
        ("/predict", "200"): 1,
    }
    lines = [record.__dict__["fields"] for record in caplog.records if record.getMessage() == "refused"]
    logged: dict[tuple[str, int], int] = {}
    for line in lines:
        key = line["route"], line["status"]
        logged[key] = logged.get(key, 0) + line["requests"]
    assert logged == {
        ("/predict", 503): 40,
        ("/v2/models/{name}/infer", 503): 3,
        ("unread", 400): 1,
        ("unread", 431): 1,
    }
    assert len(lines) < 45  # together, not each: an overload must not fill the disk


def test_what_arrives_too_slowly_is_counted() -> None:
    """A head that never ends, and a body that never does: both are answered with 408."""
    limits = Limits(arrival=0.3)
    with in_thread(slow_app(Slow(), limits)) as service:
        assert exchange(service, b"POST /predict HTTP/1.1\r\nX: ").startswith(b"HTTP/1.1 408")
        assert exchange(service, HEAD + b"Content-Length: 100\r\n\r\n").startswith(b"HTTP/1.1 408")
        assert exchange(service, b"GET /healthz HTT").startswith(b"HTTP/1.1 408")
        reply = counted(service)
    assert reply["/predict", "408"] == 2 and reply["unread", "408"] == 1


def test_a_body_that_breaks_off_its_form_is_answered() -> None:
    """Chunks that are none. The connection was reset without a word, and counted as a client that had gone."""
    with in_thread(slow_app(Slow())) as service:
        assert exchange(service, HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n").startswith(b"HTTP/1.1 400")
        assert wait_for(lambda: counted(service).get(("/predict", "400")) == 1)
        assert ("/predict", "499") not in counted(service)


def test_lines_that_the_log_lost_are_said() -> None:
    """Lines without room were dropped without a trace: here all but two of a thousand."""
    from tenfold.serving.serve import watch

    lines = watch.Lines.__new__(watch.Lines)
    logging.Handler.__init__(lines)
    lines.setFormatter(watch._Json())
    lines._lost, lines._queue = 0, watch.queue.Queue(2)
    watch.LOG.addHandler(lines)
    level = watch.LOG.level
    watch.LOG.setLevel(logging.INFO)
    try:
        for number in range(1000):
            watch.log("request", number=number)
        first, second = (json.loads(lines._queue.get_nowait()) for _ in range(2))  # type: ignore[arg-type]
        assert (first["number"], second["number"]) == (0, 1)
        watch.log("request", number=1000)
        after, lost = (json.loads(lines._queue.get_nowait()) for _ in range(2))  # type: ignore[arg-type]
    finally:
        watch.LOG.removeHandler(lines)
        watch.LOG.setLevel(level)
    assert after["number"] == 1000
    assert (lost["event"], lost["lines"]) == ("lost", 998)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what other processes use")
def test_the_decoders_count_in_processor_time_and_memory() -> None:
    """They do most of the work, and the numbers showed nothing of it. Held to psutil; ended ones keep counting."""
    content = io.BytesIO()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (1500, 1500, 3), np.uint8)).save(content, "PNG")
    app = slow_app(Slow())
    with in_thread(app) as service:
        children = [psutil.Process(process.pid) for process in app._batcher.decoders._alive]
        before = metric(service, "tenfold_decoder_cpu_seconds_total")
        for _ in range(5):
            assert service.ask("POST", "/predict", content.getvalue()).status == 200
        used = sum(sum(child.cpu_times()[:2]) for child in children)
        after = metric(service, "tenfold_decoder_cpu_seconds_total")
        assert after > before and after >= used - 0.02
        held = sum(child.memory_info().rss for child in children)
        assert metric(service, "tenfold_decoder_resident_memory_bytes") == pytest.approx(held, rel=0.2)
        assert metric(service, "tenfold_decoder_processes") == len(children)
        for child in children:
            child.kill()
        assert wait_for(lambda: service.ask("POST", "/predict", picture()).status == 200)
        assert metric(service, "tenfold_decoder_cpu_seconds_total") >= after


# --- the end ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def model() -> Path:
    """The bundled one: what it answers does not matter here."""
    return BUNDLED


@pytest.fixture
def ending(model: Path, tmp_path: Path) -> Iterator[Service]:
    """A service that drains for longer than any test takes to ask."""
    with process(model, tmp_path, "--drain", "60") as service:
        yield service


def begin_to_end(service: Service, number: int = signal.SIGTERM) -> None:
    """Send the signal; return once it was taken."""
    assert service.process
    service.process.send_signal(number)
    assert wait_for(lambda: service.ask("GET", "/v2/health/ready").status != 200)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_while_it_drains_everything_is_answered(ending: Service, number: int) -> None:
    """On kept connections and on new ones. Kept ones were closed at once: requests on their way were reset."""
    kept = [http.client.HTTPConnection("127.0.0.1", ending.port, timeout=LONG) for _ in range(8)]
    for connection in kept:
        connection.request("GET", "/healthz")
        assert connection.getresponse().read()
    begin_to_end(ending, number)
    for connection in kept:
        connection.request("POST", "/predict", picture())
        answered = connection.getresponse()
        assert answered.status == 200 and answered.getheader("connection") == "close"
        assert json.loads(answered.read())["predictions"]
        connection.close()
    assert ending.ask("POST", "/predict", picture()).headers["connection"] == "close"
    assert ending.ask("GET", "/absent").headers["connection"] == "close"
    assert ending.process
    ending.process.send_signal(signal.SIGTERM)  # a second one: at once
    assert ending.process.wait(timeout=LONG) == 0
    events = [row["event"] for row in ending.rows()]
    assert events[-1] == "stopped" and events.count("draining") == 1
    assert not [row for row in ending.rows() if row["level"] == "error"]


@pytest.mark.slow
def test_readiness_ends_at_once_and_liveness_stays(ending: Service) -> None:
    """All said that they were ready until the connection was refused."""
    paths = ("/healthz", "/v2/health/ready", "/v2/models/cifar10/ready")
    assert [ending.ask("GET", path).status for path in paths] == [200] * 3
    begin_to_end(ending)
    for path in paths:
        answered = ending.ask("GET", path)
        assert answered.status == 503 and answered.json()["ready"] is False
    assert ending.ask("HEAD", "/healthz").status == ending.ask("OPTIONS", "/").status == 503
    assert ending.ask("GET", "/v2/health/live").status == 200


@pytest.mark.slow
def test_nobody_is_reset_when_it_ends(model: Path, tmp_path: Path) -> None:
    """Eight clients ask on kept connections until theirs is closed; then they stop: what was sent is answered.

    Before, two to sixteen of a few hundred ended in a reset.
    """
    ended = threading.Event()

    def ask_on(service: Service) -> tuple[int, list[str]]:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=LONG)
        for number in range(100_000):
            try:
                connection.request("POST", "/predict", picture())
                answered = connection.getresponse()
                if answered.status != 200 or not answered.read():
                    return number, [f"status {answered.status}"]
            except (OSError, http.client.HTTPException) as error:
                return number, [repr(error)]
            if answered.getheader("connection") == "close":
                return number, []
            ended.wait(0.001)
        return number, ["it was never said that it ends"]

    with process(model, tmp_path) as service, ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(ask_on, service) for _ in range(8)]
        assert wait_for(lambda: counted(service).get(("/predict", "200"), 0) >= 80)
        assert service.end() == 0
        results = [client.result() for client in clients]
    assert [failures for _, failures in results if failures] == []
    assert sum(number for number, _ in results) >= 72


def test_what_was_begun_is_answered_after_the_drain() -> None:
    """Also a head of which only half had arrived: its connection was closed."""
    slow = Slow()
    content = picture()
    app = slow_app(slow)
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(in_thread(app))
        half, idle = service.connect(), service.connect()
        idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert read_answer(idle).status == 200
        half.sendall(HEAD[:20])
        assert service.ask("GET", "/healthz").status == 200  # the half is there by now

        def send_the_rest() -> bytes:
            assert read_all(idle) == b""  # closed: the drain is over
            half.sendall(HEAD[20:] + b"Content-Length: %d\r\n\r\n" % len(content) + content)
            return read_all(half)

        rest = ThreadPoolExecutor(1).submit(send_the_rest)
        stack.close()  # ends the service
        assert rest.result().startswith(b"HTTP/1.1 200")
        half.close()
        idle.close()


@pytest.mark.slow
def test_the_drain_can_be_none(model: Path, tmp_path: Path) -> None:
    with process(model, tmp_path, TENFOLD_DRAIN="0") as service:
        assert service.end() == 0
        (row,) = [row for row in service.rows() if row["event"] == "draining"]
        assert row["seconds"] == 0
    assert Limits().drain + Limits().leaving < 10  # what is promised of SIGTERM


# --- answers that come early -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with in_thread(slow_app(Slow(), token="secret")) as running:
        yield running


CASES = {
    "401": ({}, 401),
    "404": ({"Authorization": "Bearer secret", "path": "/absent"}, 404),
    "403": ({"Authorization": "Bearer secret", "Origin": "http://evil.example"}, 403),
    "413": ({"Authorization": "Bearer secret"}, 413),
    "415": ({"Authorization": "Bearer secret", "Content-Encoding": "br"}, 415),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_who_sends_first_and_reads_then_reads_the_answer(service: Service, case: str, chunked: bool) -> None:
    """Python's urllib: it sends all of 17 MB, saying that it closes then. Each time the connection was reset."""
    headers, status = dict(CASES[case][0]), CASES[case][1]
    url = f"http://127.0.0.1:{service.port}{headers.pop('path', '/predict')}"
    pieces = (b"a" * 2**20 for _ in range(LARGE // 2**20))
    body: Any = pieces if chunked else b"a" * LARGE
    headers["Content-Type"] = "application/octet-stream"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(url, body, headers, method="POST"), timeout=LONG)
    with caught.value as answered:
        assert answered.code == status and "error" in json.loads(answered.read())


@pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"], ids=["", "expect"])
@pytest.mark.parametrize("kept", [b"", b"Connection: close\r\n"], ids=["kept", "close"])
def test_plain_sockets_read_the_answer(service: Service, expect: bytes, kept: bytes) -> None:
    head = HEAD + b"Authorization: Bearer secret\r\nContent-Length: %d\r\n" % LARGE + expect + kept + b"\r\n"
    with service.connect() as connection:
        connection.sendall(head)
        if not expect:
            for _ in range(LARGE // 2**20):
                connection.sendall(b"a" * 2**20)
        answered = read_answer(connection)
        assert answered.status == 413 and "larger than" in answered.json()["error"]
        assert answered.headers.get("connection") == ("close" if expect or kept else None)


def test_a_body_that_was_asked_for_may_be_kept_alive(service: Service) -> None:
    """After 100 Continue the connection is kept as usual."""
    content = picture()
    head = HEAD + b"Authorization: Bearer secret\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(content)
    with service.connect() as connection:
        for _ in range(2):
            connection.sendall(head)
            assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.sendall(content)
            answered = read_answer(connection)
            assert answered.status == 200 and "connection" not in answered.headers


@pytest.mark.parametrize("words", [[], ["-H", "Expect:"], ["-H", "Transfer-Encoding: chunked"], ["--http1.0"]])
def test_curl_reads_the_answer(service: Service, tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "large").write_bytes(b"a" * LARGE)
    assert shutil.which("curl")
    url = f"http://127.0.0.1:{service.port}/predict"
    line = ["curl", "-sS", "-w", "%{http_code}", "-H", "Authorization: Bearer secret", *words]
    ended = subprocess.run([*line, "--data-binary", "@large", url], cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout[-3:]) == (0, "413"), ended.stderr


def test_lingering_has_bounds() -> None:
    """Who never stops sending is reset by bytes, who sends nothing is let go by time."""
    app = slow_app(Slow(), Limits(body=1000, discarded=2**20))
    refused = HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % 2**30
    with in_thread(app) as service, service.connect() as flood, service.connect() as silent:
        silent.sendall(refused)
        assert read_all(silent).startswith(b"HTTP/1.1 413")  # we have closed our side
        with pytest.raises(OSError):
            flood.sendall(refused)
            for _ in range(1000):
                flood.sendall(b"a" * 2**20)
        assert wait_for(lambda: _open_connections(service) == 1)  # but for the one that asks


def _open_connections(service: Service) -> int:
    own = psutil.Process().net_connections("tcp")
    return len([c for c in own if c.laddr.port == service.port and c.status not in ("LISTEN", "TIME_WAIT")])


# --- who asks for the health -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        b"OPTIONS / HTTP/1.0\r\n\r\n",  # HAProxy's option httpchk
        b"GET /healthz HTTP/1.0\r\n\r\n",
        b"HEAD /healthz HTTP/1.0\r\n\r\n",
        b"GET /v2/health/live HTTP/1.0\r\n\r\n",
        b"GET /v2/health/ready HTTP/1.0\r\n\r\n",
        b"GET /v2/models/slow/ready HTTP/1.0\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: 10.1.2.3:8000\r\nUser-Agent: kube-probe/1.31\r\nConnection: close\r\n\r\n",
        b"GET /v2/health/ready HTTP/1.1\r\nHost: pod-7.tenfold.svc\r\nConnection: close\r\n\r\n",
    ],
)
def test_health_needs_neither_host_nor_token(service: Service, asked: bytes) -> None:
    """HAProxy's checks, in HTTP/1.0 without a Host, were answered with 400: it took every server for dead."""
    assert exchange(service, asked).startswith(b"HTTP/1.1 200")


def test_nothing_else_is_open(service: Service) -> None:
    for path in ("/", "/model", "/metrics", "/predict", "/v2", "/v2/models/slow", "/healthz/x", "/x/v2/health/ready"):
        assert exchange(service, b"GET %b HTTP/1.0\r\n\r\n" % path.encode()).startswith(b"HTTP/1.1 400")
    foreign = b"GET /healthz HTTP/1.0\r\nOrigin: http://evil.example\r\n\r\n"
    assert exchange(service, foreign).startswith(b"HTTP/1.1 403")
    preflight = b"OPTIONS / HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\nConnection: close\r\n\r\n"
    assert exchange(service, preflight).startswith(b"HTTP/1.1 403")


@pytest.mark.slow
def test_hosts_may_come_from_a_variable(model: Path, tmp_path: Path) -> None:
    """With commas or spaces; behind a proxy in a container there was no other way than the command line."""
    with process(model, tmp_path, TENFOLD_ALLOW_HOST="a.example, B.example c.example") as service:
        statuses = [service.ask("GET", "/model", Host=f"{name}.example").status for name in "abcd"]
        assert statuses == [200, 200, 200, 400]
    with pytest.raises(UsageError, match="--allow-host http://x: give the name of a host"):
        Hosts("127.0.0.1", ["http://x"])


@pytest.mark.slow
def test_what_kubernetes_sets_is_ignored(model: Path, tmp_path: Path) -> None:
    """A service named tenfold makes it set these in every pod: "'tcp://…' is not a valid int", and none started."""
    links = {
        "TENFOLD_SERVICE_HOST": "10.0.0.1",
        "TENFOLD_SERVICE_PORT": "8000",
        "TENFOLD_PORT": "tcp://10.0.0.1:8000",
        "TENFOLD_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "TENFOLD_PORT_8000_TCP_PROTO": "tcp",
        "TENFOLD_PORT_8000_TCP_PORT": "8000",
        "TENFOLD_PORT_8000_TCP_ADDR": "10.0.0.1",
    }
    with process(model, tmp_path, **links) as service:
        assert service.ask("GET", "/healthz").status == 200
        assert service.log
        (said,) = [line for line in service.log.read_text().splitlines() if not line.startswith("{")]
    assert said.startswith("TENFOLD_PORT=tcp://10.0.0.1:8000 is ignored: Kubernetes sets it")


def test_a_port_that_is_no_service_is_still_an_error(model: Path) -> None:
    line = [sys.executable, "-m", "tenfold", "serve", "--model", str(model)]
    ended = subprocess.run(line, env=os.environ | {"TENFOLD_PORT": "http"}, capture_output=True, text=True)
    assert ended.returncode == 2 and "TENFOLD_PORT" in ended.stderr


def test_every_metric_is_documented(service: Service) -> None:
    docs = ROOT / "docs"
    text = (docs / "reference" / "http.md").read_text() + (docs / "guides" / "serving.md").read_text()
    headers = {"Authorization": "Bearer secret"}
    types = re.findall(r"^# TYPE (\S+)", service.ask("GET", "/metrics", **headers).body.decode(), re.MULTILINE)
    names = {name for name in types if not name.endswith("_created")}
    assert len(names) > 10 and {name for name in names if f"`{name}`" not in text} == set()
    limits = Limits()
    for said in (
        f"for {limits.drain:g} seconds",
        f"flight {limits.leaving:g} seconds",
        f"{limits.lingering:g} seconds",
    ):
        assert said in text
    assert f"{limits.discarded // 2**20} MB" in text
