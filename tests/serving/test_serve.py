"""`tenfold serve`: what it answers, in every form, and to whom."""

import base64
import http.client
import io
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tenfold.serving.inputs import find
from tenfold.serving.predict import answer
from tenfold.serving.predictor import open_model
from tenfold.serving.serve.guard import Hosts
from tenfold.serving.serve.limits import Limits
from tenfold.training.provenance import reload_dataset
from tenfold.training.run import Run
from tests.support.process import ROOT, Invoke
from tests.support.served import Service, Slow, in_thread, process, slow_app
from tests.support.waiting import LONG

TOKEN = "correct horse"


def png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def multipart(*contents: bytes) -> tuple[bytes, str]:
    """A body and its content type; the file name is one that would be markup, were it shown."""
    head = b'--sep\r\nContent-Disposition: form-data; name="image"; filename="<img src=x onerror=alert(1)>.png"\r\n\r\n'
    body = b"".join(head + content + b"\r\n" for content in contents) + b"--sep--\r\n"
    return body, "multipart/form-data; boundary=sep"


@pytest.fixture(scope="module")
def photos(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve test images and two pictures of other shapes and kinds."""
    folder = tmp_path_factory.mktemp("photos")
    for index, pixels in enumerate(reload_dataset(run).test.images[:12]):
        Image.fromarray(pixels).save(folder / f"{index:02}.png")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (90, 160, 3), np.uint8)).save(folder / "12.jpg")
    Image.fromarray(rng.integers(0, 65535, (50, 40), np.uint16)).save(folder / "13.png")
    return folder


@pytest.fixture(scope="module")
def service(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with process(model, tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture(scope="module")
def contents(photos: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(photos.iterdir())]


@pytest.fixture(scope="module")
def expected(model: Path, photos: Path) -> list[list[tuple[str, float]]]:
    """The guesses of `tenfold predict`."""
    answers = [one for batch in answer(open_model(model), find([str(photos)]), top=3) for one in batch]
    return [list(one.predictions) for one in answers]


def guesses(reply: Any) -> list[list[tuple[str, float]]]:
    """The guesses in an answer of the service."""
    return [[(guess["label"], guess["probability"]) for guess in one["top"]] for one in reply["predictions"]]


def assert_same(found: list[list[tuple[str, float]]], expected: list[list[tuple[str, float]]]) -> None:
    """Batches of other sizes may round otherwise in the last bit."""
    assert [[label for label, _ in one] for one in found] == [[label for label, _ in one] for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert [probability for _, probability in one] == pytest.approx([p for _, p in other], abs=1e-6)


# --- answers ---------------------------------------------------------------------------------------------------------


def test_answers_are_those_of_predict(
    service: Service, contents: list[bytes], expected: list[list[tuple[str, float]]]
) -> None:
    for content, guessed in zip(contents, expected, strict=True):
        reply = service.ask("POST", "/predict?top=3", content, Content_Type="image/png").json()
        assert_same(guesses(reply), [guessed])
        assert reply["predictions"][0]["label"] == guessed[0][0]
        assert (reply["model"], reply["size"], reply["threshold"]) == ("model", 32, 0.6)
        assert reply["distance_threshold"] == 3.0 and reply["predictions"][0]["rejected_by"] == []


def test_many_images_in_each_form(
    service: Service, contents: list[bytes], expected: list[list[tuple[str, float]]]
) -> None:
    body, kind = multipart(*contents)
    assert_same(guesses(service.ask("POST", "/predict?top=3", body, Content_Type=kind).json()), expected)
    in_base64 = [base64.b64encode(content).decode() for content in contents]
    for request, many in (({"images": in_base64}, expected), ({"image": in_base64[0]}, expected[:1])):
        result = service.ask(
            "POST", "/predict?top=3", json.dumps(request), Content_Type="application/json; charset=utf-8"
        )
        assert_same(guesses(result.json()), many)


def test_one_connection_answers_many(service: Service, contents: list[bytes]) -> None:
    """Two requests in one packet are answered in their order."""
    ask = b"POST /predict?top=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n%b\r\n%b"
    last = b"Connection: close\r\n"
    with service.connect() as connection:
        both = [ask % (len(content), more, content) for content, more in zip(contents[:2], (b"", last), strict=True)]
        connection.sendall(b"".join(both))
        with connection.makefile("rb") as file:
            answered = file.read()
    assert answered.count(b"HTTP/1.1 200 OK") == 2
    one, other = (service.ask("POST", "/predict?top=1", content).body for content in contents[:2])
    assert answered.index(one) < answered.index(other)


def test_who_keeps_a_connection_does_not_wait(service: Service) -> None:
    """Were an answer's parts not sent at once, the second waited for the client's receipt of the first: 44 ms each.

    The first few are receipted at once. A busy machine slows some of the others down, the fault nearly all, every time.
    """
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=LONG)

    def quarter() -> float:
        """Seconds within which a quarter of forty answers come."""
        seconds = []
        for _ in range(40):
            began = time.perf_counter()
            connection.request("GET", "/healthz")
            assert connection.getresponse().read()
            seconds.append(time.perf_counter() - began)
        return sorted(seconds)[10]

    quarter()
    assert any(quarter() < 0.02 for _ in range(10))
    connection.close()


def test_unsure_answers_have_no_label(service: Service, contents: list[bytes]) -> None:
    body, kind = multipart(*contents)
    for one in service.ask("POST", "/predict?reject=true", body, Content_Type=kind).json()["predictions"]:
        reasons = ["confidence"] * (one["probability"] < 0.6) + ["distance"] * (one["distance"] > 3.0)
        assert one["rejected_by"] == reasons
        assert one["label"] == (None if reasons else one["top"][0]["label"])
        assert one["probability"] == one["top"][0]["probability"]


def test_what_the_model_sees_can_be_asked_for(service: Service, model: Path, contents: list[bytes]) -> None:
    (one,) = service.ask("POST", "/predict?pixels=1", contents[12]).json()["predictions"]
    assert base64.b64decode(one["pixels"]) == open_model(model).decode(contents[12]).tobytes()


def test_open_inference_protocol(service: Service, run: Run, model: Path) -> None:
    images, classifier = reload_dataset(run).test.images[:3], open_model(model)
    for path, key in (("/v2/health/live", "live"), ("/v2/health/ready", "ready"), ("/v2/models/model/ready", "ready")):
        assert service.ask("GET", path).json()[key] is True
    assert service.ask("GET", "/v2").json()["name"] == "tenfold"
    reply = service.ask("GET", "/v2/models/model").json()
    assert reply["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}]
    shapes = {"probabilities": [-1, 10], "distance": [-1]}
    assert reply["outputs"] == [{"name": name, "datatype": "FP32", "shape": shape} for name, shape in shapes.items()]
    assert reply["parameters"]["classes"] == list(classifier.classes)
    for data in (images.ravel().tolist(), images.tolist()):  # flat and nested
        tensor = {"name": "images", "datatype": "UINT8", "shape": [3, 32, 32, 3], "data": data}
        answered = service.ask("POST", "/v2/models/model/infer", json.dumps({"id": "7", "inputs": [tensor]})).json()
        output, distances = answered["outputs"]
        assert distances["data"] == pytest.approx(list(classifier.infer(images).distance), rel=1e-4)
        assert (answered["id"], answered["model_name"], output["shape"]) == ("7", "model", [3, 10])
        assert output["data"] == pytest.approx(classifier.predict(images).ravel().tolist(), abs=1e-6)


def test_one_image_takes_two_milliseconds_inside(service: Service, contents: list[bytes]) -> None:
    """By the service's own histogram; five are allowed here, since the machine may be busy."""
    for _ in range(20):
        service.ask("POST", "/predict", contents[0])
    text = service.ask("GET", "/metrics").body.decode()
    numbers = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    name = "tenfold_inference_duration_seconds"
    assert float(numbers[f'{name}_bucket{{le="0.005"}}']) >= float(numbers[f"{name}_count"]) / 2
    asked = float(numbers['tenfold_requests_total{route="/predict",status="200"}'])
    assert asked == float(numbers['tenfold_request_duration_seconds_count{route="/predict"}']) >= 20


# --- what is refused -------------------------------------------------------------------------------------------------

TENSOR = {"name": "images", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": [0] * 3072}


def changed(**changes: Any) -> bytes:
    return json.dumps({"inputs": [TENSOR | changes]}).encode()


@pytest.mark.parametrize(
    ("path", "kind", "body", "status", "said"),
    [
        ("/predict", "image/png", b"", 400, "no image"),
        ("/predict", "image/png", b"hello", 400, "not an image"),
        ("/predict", "image/png", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, 400, "damaged PNG"),
        ("/predict", "application/json", b"{", 400, "JSON"),
        ("/predict", "application/x-www-form-urlencoded", b' {"image": ""}', 400, "Content-Type: application/json"),
        ("/predict", "application/json", b"[" * 1_000_000, 400, "more values"),
        ("/predict", "application/json", b"[" * 900, 400, "JSON"),
        ("/predict", "application/json", b'{"image":' * 900, 400, "JSON"),
        ("/predict", "application/json", b'{"image": NaN}', 400, "JSON"),
        ("/predict", "application/json", b'{"image": ' + b"9" * 5000 + b"}", 400, "JSON"),
        ("/predict", "application/json", b"\xff\xfe", 400, "JSON"),
        ("/predict", "application/json", b'{"image": 1}', 400, "base64"),
        ("/predict", "application/json", b'{"image": "\xc3\xa9"}', 400, "base64"),
        ("/predict", "application/json", b'{"image": "a"}', 400, "base64"),
        ("/predict", "application/json", b'{"images": []}', 400, "no image"),
        ("/predict", "application/json", b'{"images": ["", "aGFsbG8="]}', 400, "image 1 of 2 is empty"),
        (
            "/predict",
            "application/json",
            b'{"images": ["' + b'aGFsbG8=","' * 40 + b'"]}',
            413,
            "at most 32 images",
        ),
        ("/predict", multipart()[1], multipart(*[b"hello"] * 33)[0], 413, "at most 32 images"),
        ("/predict", "multipart/form-data", b"--x", 400, "multipart"),
        ("/predict", "multipart/form-data; boundary=x", b"hello", 400, "multipart"),
        ("/predict", "multipart/form-data; boundary=" + "x" * 2000, b"--x\r\n\r\n", 400, "multipart"),
        ("/predict", "multipart/form-data; boundary=sep", multipart(b"hello")[0][:-9], 400, "cut short"),
        ("/predict", multipart()[1], multipart(b"hello", b"")[0], 400, "image 2 of 2 is empty"),
        ("/predict", multipart()[1], multipart(b"hello", b"hello")[0], 400, "image 1 of 2: not an image"),
        ("/predict?top=0", "image/png", b"hello", 400, "top: "),
        ("/predict?top=x", "image/png", b"hello", 400, "top: "),
        ("/v2/models/model/infer", "application/json", b"[]", 400, "JSON"),
        ("/v2/models/model/infer", "application/json", b'{"id": 1, "inputs": []}', 400, "id"),
        ("/v2/models/model/infer", "application/json", b'{"inputs": [1]}', 400, "one input"),
        ("/v2/models/model/infer", "application/json", b'{"inputs": [{}], "outputs": [{}]}', 400, "the outputs are"),
        ("/v2/models/model/infer", "application/json", changed(name="x"), 400, "UINT8"),
        ("/v2/models/model/infer", "application/json", changed(datatype="FP32"), 400, "UINT8"),
        ("/v2/models/model/infer", "application/json", changed(shape=[1, 31, 32, 3]), 400, "shape"),
        ("/v2/models/model/infer", "application/json", changed(shape=[True, 32, 32, 3]), 400, "shape"),
        ("/v2/models/model/infer", "application/json", changed(shape=[0, 32, 32, 3], data=[]), 400, "shape"),
        ("/v2/models/model/infer", "application/json", changed(shape=[10**9, 32, 32, 3]), 413, "images"),
        ("/v2/models/model/infer", "application/json", changed(data=[0] * 3071), 400, "whole numbers"),
        ("/v2/models/model/infer", "application/json", changed(data=[256] * 3072), 400, "whole numbers"),
        ("/v2/models/model/infer", "application/json", changed(data=[0.5] * 3072), 400, "whole numbers"),
        ("/v2/models/model/infer", "application/json", changed(data=[[[[[0]]]]] * 3072), 400, "nested exactly"),
        ("/v2/models/other/infer", "application/json", changed(), 404, "model"),
        ("/nowhere", "image/png", b"", 404, "nothing at this path"),
        ("/healthz/", "image/png", b"", 404, "nothing at this path"),
        ("/healthz", "image/png", b"", 405, "another method"),
    ],
)
def test_what_is_malformed_is_refused(
    service: Service, path: str, kind: str, body: bytes, status: int, said: str
) -> None:
    """Each with a sentence, which holds neither a path of this machine nor what was sent."""
    answered = service.ask("POST", path, body, Content_Type=kind)
    assert answered.status == status
    assert set(answered.json()) == {"error"} and said in answered.json()["error"]
    for secret in ("/site-packages", "tenfold/", "Traceback", ".py", str(Path.home())):
        assert secret not in answered.body.decode()


def test_every_answer_carries_a_policy_and_an_id(service: Service) -> None:
    for answered in (service.ask("GET", "/healthz"), service.ask("GET", "/nowhere"), service.ask("POST", "/predict")):
        assert answered.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in answered.headers["content-security-policy"]
        assert answered.headers["x-content-type-options"] == "nosniff"
        assert len(answered.headers["x-request-id"]) == 16
    assert service.ask("GET", "/healthz", X_Request_ID="a-1.b_2").headers["x-request-id"] == "a-1.b_2"
    assert service.ask("GET", "/healthz", X_Request_ID="a\tb").headers["x-request-id"] != "a\tb"


def test_the_log_is_a_line_of_json_a_request(service: Service, contents: list[bytes]) -> None:
    """And nothing of the image is in it, nor its name."""
    body, kind = multipart(contents[0], contents[1])
    service.ask("POST", "/predict?top=2", body, Content_Type=kind, X_Request_ID="findme")
    (row,) = [row for row in service.rows() if row.get("id") == "findme"]
    assert row.pop("seconds") < 10 and row.pop("time").endswith("+00:00")
    assert row == {
        "level": "info", "event": "request", "method": "POST", "route": "/predict", "status": 200, "id": "findme",
        "client": "127.0.0.1", "images": 2,
    }  # fmt: skip


def test_head_is_answered_for_watchers(service: Service) -> None:
    for path in ("/", "/healthz"):
        answered = service.ask("HEAD", path)
        assert (answered.status, answered.body) == (200, b"") and int(answered.headers["content-length"]) > 0


def test_what_answers_is_said(service: Service, run: Run) -> None:
    reply = service.ask("GET", "/model").json()
    classes = list(run.read_json("model.json")["classes"])
    thresholds = {"threshold": 0.6, "distance_threshold": 3.0}
    assert reply == {"name": "model", "size": 32, **thresholds, "classes": classes}


def test_openapi_describes_every_route(service: Service) -> None:
    reply = service.ask("GET", "/openapi.json").json()
    assert set(reply["paths"]) == {
        "/healthz", "/metrics", "/model", "/predict", "/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/{name}",
        "/v2/models/{name}/ready", "/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}",
        "/v2/models/{name}/versions/{version}/ready", "/v2/models/{name}/versions/{version}/infer",
    }  # fmt: skip
    kinds = set(reply["paths"]["/predict"]["post"]["requestBody"]["content"])
    assert kinds == {"image/*", "application/octet-stream", "multipart/form-data", "application/json"}
    infer = reply["paths"]["/v2/models/{name}/versions/{version}/infer"]["post"]
    assert [one["name"] for one in infer["parameters"]] == ["name", "version", "Inference-Header-Content-Length"]
    for described in (infer["requestBody"], infer["responses"]["200"]):
        assert set(described["content"]) == {"application/json", "application/octet-stream"}


# --- who may ask -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:80", "[::1]:9", "LOCALHOST:8000"])
def test_hosts_that_are_this_machine(service: Service, host: str) -> None:
    assert service.ask("GET", "/healthz", Host=host).status == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "10.0.0.1", "a@localhost", "", "["])
def test_foreign_hosts(service: Service, host: str) -> None:
    """Without the check each is answered with 200."""
    assert service.ask("GET", "/", Host=host).status == 400


def test_hosts_of_an_open_address() -> None:
    hosts = Hosts("0.0.0.0", ["Pictures.example"])
    for known in ("10.1.2.3:8000", "[2001:db8::1]", "pictures.example", "localhost", f"{socket.gethostname()}:8000"):
        assert known in hosts
    assert "evil.example" not in hosts and "pictures.example" not in Hosts("127.0.0.1")


def test_foreign_origins(service: Service) -> None:
    """Without the check each is answered with 200."""
    own = f"127.0.0.1:{service.port}"
    for origin in ("http://evil.example", "null", "http://localhost:1", f"http://{own}.evil.example"):
        assert service.ask("POST", "/predict", b"", Origin=origin).status == 403
    assert service.ask("GET", "/healthz", Origin=f"http://{own}").status == 200


def test_a_token_is_asked_for_everywhere() -> None:
    """Health and the pages are open. Without the check every path is; comparing as text, the last token is a 500."""
    with in_thread(slow_app(Slow(), token=TOKEN)) as service:
        for path in ("/healthz", "/v2/health/live", "/v2/health/ready", "/", "/page.js", "/docs", "/docs.js"):
            assert service.ask("GET", path).status == 200
        for path in ("/metrics", "/model", "/openapi.json", "/v2", "/v2/models/slow", "/nowhere"):
            answered = service.ask("GET", path)
            assert (answered.status, answered.headers["www-authenticate"]) == (401, "Bearer")
            known = 404 if path == "/nowhere" else 200
            assert service.ask("GET", path, Authorization=f"Bearer {TOKEN}").status == known
            assert service.ask("GET", path, X_API_Key=TOKEN).status != 401
        for path in ("/predict", "/v2/models/slow/infer", "/docs/", "/healthz/"):
            for wrong in ("", "Bearer", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer caf\xe9"):
                assert service.ask("POST", path, b"", Authorization=wrong).status == 401


# --- where it listens ------------------------------------------------------------------------------------------------


def test_an_open_address_needs_a_token(invoke: Invoke, model: Path) -> None:
    """Without the check it listens to everybody."""
    result = invoke("serve", "--model", model, "--host", "0.0.0.0", "--port", "0")
    assert (result.returncode, result.stdout) == (2, "") and "TENFOLD_TOKEN" in result.stderr


def test_a_port_in_use(invoke: Invoke, model: Path, service: Service) -> None:
    result = invoke("serve", "--model", model, "--port", str(service.port))
    assert result.returncode == 6
    assert result.stderr == f"tenfold: port {service.port} of 127.0.0.1 is in use: choose another --port\n"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--host", "nowhere.invalid"], 2, "no such address"),
        (["--token", ""], 2, "the token is empty"),
        (["--token", "caf\xe9"], 2, "printable"),
        (["--model", "missing.onnx"], 4, "missing.onnx"),
    ],
)
def test_what_cannot_begin(invoke: Invoke, words: list[str], code: int, said: str) -> None:
    result = invoke("serve", "--port", "0", *words)
    assert (result.returncode, result.stdout) == (code, "") and said in result.stderr


def test_limits_are_those_of_the_documentation() -> None:
    text = (ROOT / "docs" / "reference" / "http.md").read_text()
    limits = Limits()
    for number in (limits.body // 2**20, limits.images, limits.waiting, f"{limits.seconds:g}", f"{limits.arrival:g}"):
        assert f" {number} " in text
