"""The Open Inference Protocol, version 2, with Triton's extensions of binary tensors and classification.

Bodies are built from the text of the specification. The model of these tests sees 4×4 pixels and knows "left" and
"<b>right</b>"; the probability of the latter is the mean of the pixels, from 0 to 1.
"""

import asyncio
import json
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tenfold.serving.predictor import open_model
from tests.support.process import ROOT
from tests.support.served import PredictionResult, Service, Slow, in_thread, process, slow_app
from tests.support.waiting import LONG

INFER = "/v2/models/slow/infer"
VERSION = "000000000000"


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with in_thread(slow_app(Slow())) as running:
        yield running


def tensor(*values: Any, **changes: Any) -> dict[str, Any]:
    """An input of one image for each value, all of whose pixels are this value."""
    data = [value for value in values for _ in range(48)]
    return {"name": "images", "datatype": "UINT8", "shape": [len(values), 4, 4, 3], "data": data} | changes


def binary_tensor(size: int = 48, count: int = 1, **changes: Any) -> dict[str, Any]:
    described = tensor(parameters={"binary_data_size": size}, shape=[count, 4, 4, 3]) | changes
    return {key: value for key, value in described.items() if key != "data" or "data" in changes}


def ask(service: Service, inputs: Any, rest: bytes | None = None, **fields: Any) -> PredictionResult:
    """Ask as the specification says; `rest`: bytes after the JSON."""
    head = json.dumps({"inputs": inputs} | fields).encode()
    if rest is None:
        return service.ask("POST", INFER, head)
    return service.ask("POST", INFER, head + rest, Inference_Header_Content_Length=str(len(head)))


def output(answered: PredictionResult) -> dict[str, Any]:
    assert answered.status == 200, answered.body
    (one,) = answered.json()["outputs"]
    return dict(one)


def split(answered: PredictionResult) -> tuple[dict[str, Any], bytes]:
    """The JSON and the bytes of a binary answer."""
    assert (answered.status, answered.headers["content-type"]) == (200, "application/octet-stream")
    length = int(answered.headers["inference-header-content-length"])
    assert int(answered.headers["content-length"]) == len(answered.body)
    return json.loads(answered.body[:length]), answered.body[length:]


# --- descriptions of server and model -----------------------------------------------------------------------------


def test_server_and_model_are_described_as_specified(service: Service) -> None:
    for path in ("/v2", "/v2/"):
        reply = service.ask("GET", path).json()
        assert set(reply) == {"name", "version", "extensions"}
        assert reply["extensions"] == ["binary_tensor_data", "classification"]
    reply = service.ask("GET", "/v2/models/slow").json()
    assert reply.pop("parameters")["classes"] == ["left", "<b>right</b>"]
    assert reply == {
        "name": "slow", "versions": [VERSION], "platform": "onnx_onnxv1",
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, 4, 4, 3]}],
        "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]}],
    }  # fmt: skip
    assert service.ask("GET", "/v2/health/live").json() == {"live": True}
    assert service.ask("GET", "/v2/health/ready").json() == {"ready": True, "live": True}
    assert service.ask("GET", "/v2/models/slow/ready").json() == {"name": "slow", "ready": True}


def test_the_reported_version_can_be_asked_for_and_no_other(service: Service) -> None:
    body, path = json.dumps({"inputs": [tensor(51)]}), f"/v2/models/slow/versions/{VERSION}"
    answered = service.ask("POST", f"{path}/infer", body)
    assert answered.json()["model_version"] == VERSION and output(answered)["data"] == pytest.approx([0.8, 0.2])
    assert service.ask("GET", path).json() == service.ask("GET", "/v2/models/slow").json()
    assert service.ask("GET", f"{path}/ready").json() == {"name": "slow", "ready": True}
    for other in ("/v2/models/slow/versions/1", f"/v2/models/other/versions/{VERSION}", "/v2/models/other"):
        for method, end in (("GET", ""), ("GET", "/ready"), ("HEAD", "/ready"), ("POST", "/infer")):
            answered = service.ask(method, f"{other}{end}", body if method == "POST" else None)
            assert answered.status == 404 and (method == "HEAD" or set(answered.json()) == {"error"})
    answered = service.ask("GET", "/v2/models/slow/versions/1")  # names no version: no token is needed
    assert "lists the versions" in answered.json()["error"]


@pytest.mark.parametrize(
    "path",
    [
        *("/healthz", "/v2/health/live", "/v2/health/ready", "/v2/models/slow/ready", "/v2", "/model", "/metrics"),
        *(f"/v2/models/slow/versions/{VERSION}/ready", "/docs", "/openapi.json"),
    ],
)
def test_head_is_answered_as_get_is(service: Service, path: str) -> None:
    answered, reply = service.ask("HEAD", path), service.ask("GET", path)
    assert (answered.status, answered.body) == (200, b"")
    assert answered.headers["content-type"] == reply.headers["content-type"]
    assert path == "/metrics" or answered.headers["content-length"] == reply.headers["content-length"]


# --- tensors as JSON -------------------------------------------------------------------------------------------------


def test_numbers_may_be_nested_or_flat_and_have_a_point(service: Service) -> None:
    for data in ([51] * 48, [51.0] * 48, [51] * 47 + [51.0], np.full((1, 4, 4, 3), 51).tolist()):
        answered = ask(service, [tensor(data=data, shape=[1, 4, 4, 3])])
        assert output(answered) == {
            "name": "probabilities", "datatype": "FP32", "shape": [1, 2],
            "data": pytest.approx([0.8, 0.2]),
        }  # fmt: skip
    assert output(ask(service, [tensor(-0.0, 255.0)]))["data"] == [1.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("wrong", ["128.5", "256", "256.0", "-1", "-1.0", "true", "null", '"1"', "1e400", "[]", "[1]"])
@pytest.mark.parametrize("others", ["1", "1.0"])
def test_other_numbers_are_refused(service: Service, wrong: str, others: str) -> None:
    body = json.dumps({"inputs": [tensor(data=[], shape=[1, 4, 4, 3])]})
    body = body.replace('"data": []', f'"data": [{wrong}{f", {others}" * 47}]')
    answered = service.ask("POST", INFER, body)
    assert answered.status == 400
    said = "nested exactly" if wrong.startswith("[") else "whole numbers from 0 to 255"
    assert said in answered.json()["error"]


@pytest.mark.parametrize(
    "data",
    [
        [[[[0] * 3] * 4] * 4] + [0] * 48,  # one image nested, one flat
        [[[[0] * 3] * 4] * 4, [[[0] * 3] * 4] * 3],  # a row too few
        [[[[0] * 3] * 4] * 4, [[[0] * 3] * 4] * 3 + [[[0] * 6] * 2]],  # a row of other cells
        [[[[0] * 4] * 3] * 4] * 2,  # as many numbers, of another shape
        [[0] * 48] * 2,  # neither nested nor flat
        [[[[[0]] * 3] * 4] * 4] * 2,  # too deep
        [[]] * 2,
    ],
)
def test_ragged_data_is_refused(service: Service, data: Any) -> None:
    """Before, whatever had as many numbers was taken."""
    answered = ask(service, [tensor(data=data, shape=[2, 4, 4, 3])])
    assert answered.status == 400 and "nested exactly as the shape says" in answered.json()["error"]


@pytest.mark.parametrize("ident", ["", "42", "caf\xe9 \U0001f408", "a\nb\0", "\ud800", "x" * 10_000, '"}'])
def test_any_string_is_an_id(service: Service, ident: str) -> None:
    """It comes back, half a character, too: written as UTF-8, that one is a 500."""
    assert ask(service, [tensor(51)], id=ident).json()["id"] == ident
    answered = ask(service, [binary_tensor()], b"3" * 48, id=ident, parameters={"binary_data_output": True})
    assert split(answered)[0]["id"] == ident


def test_what_is_null_or_unknown_counts_as_left_out(service: Service) -> None:
    """Clients in Python send all fields of their classes, and parameters of their own."""
    plain = ask(service, [tensor(51)])
    assert "id" not in plain.json()
    parameters = {"timeout": 1, "priority": 2, "content_type": "np", "headers": {"a": ["b"]}}
    nulls = {"id": None, "parameters": parameters, "outputs": None, "model_name": "slow", "model_version": None}
    assert ask(service, [tensor(51, parameters=parameters)], **nulls).body == plain.body
    assert ask(service, [tensor(51, parameters=None)], parameters=None, outputs=[]).body == plain.body
    nothing = {"binary_data_output": None, "binary_data_size": None}
    assert ask(service, [tensor(51, parameters=nothing)], parameters=nothing).body == plain.body
    wanted = [{"name": "probabilities", "parameters": {"own": 1, "binary_data": None, "classification": None}}]
    assert ask(service, [tensor(51)], outputs=wanted).body == plain.body
    assert split(ask(service, [binary_tensor(data=None)], b"3" * 48, parameters={"binary_data_output": True}))


# --- binary tensors --------------------------------------------------------------------------------------------------


def test_binary_in_and_out(service: Service) -> None:
    """As in the extension's first example: pixels after the JSON, little-endian float32 after that of the answer."""
    wanted = [{"name": "probabilities", "parameters": {"binary_data": True}}]
    reply, content = split(ask(service, [binary_tensor(96, 2)], b"\x33" * 48 + b"\xff" * 48, outputs=wanted, id="7"))
    assert struct.unpack("<4f", content) == pytest.approx((0.8, 0.2, 0, 1))
    described = {"name": "probabilities", "datatype": "FP32", "shape": [2, 2], "parameters": {"binary_data_size": 16}}
    assert reply == {"model_name": "slow", "model_version": VERSION, "id": "7", "outputs": [described]}


@pytest.mark.parametrize(
    ("always", "one", "is_binary"),
    [(None, None, False), (True, None, True), (False, None, False), (True, False, False), (False, True, True)],
)
@pytest.mark.parametrize("sends_binary", [True, False])
def test_either_direction_may_be_binary(
    service: Service, always: bool | None, one: bool | None, is_binary: bool, sends_binary: bool
) -> None:
    """What an output says about itself has precedence over what is said of all."""
    fields: dict[str, Any] = {} if always is None else {"parameters": {"binary_data_output": always}}
    if one is not None:
        fields["outputs"] = [{"name": "probabilities", "parameters": {"binary_data": one}}]
    sent = ([binary_tensor()], b"\x33" * 48) if sends_binary else ([tensor(51)], None)
    answered = ask(service, *sent, **fields)
    if is_binary:
        assert struct.unpack("<2f", split(answered)[1]) == pytest.approx((0.8, 0.2))
    else:
        assert output(answered)["data"] == pytest.approx([0.8, 0.2])
        assert answered.headers["content-type"] == "application/json"
        assert "inference-header-content-length" not in answered.headers


def test_a_body_may_be_pixels_alone(service: Service) -> None:
    """The extension's "raw binary request"; its answer is binary."""
    reply, content = split(service.ask("POST", INFER, b"\x33" * 96, Inference_Header_Content_Length="0"))
    assert reply["outputs"][0]["shape"] == [2, 2]
    assert struct.unpack("<4f", content) == pytest.approx((0.8, 0.2, 0.8, 0.2))
    for length, status in ((47, 400), (0, 400), (33 * 48, 413)):
        answered = service.ask("POST", INFER, b"\0" * length, Inference_Header_Content_Length="0")
        assert (answered.status, set(answered.json())) == (status, {"error"})


@pytest.mark.parametrize("length", ["x", "-1", "1.0", "", "99999", "1" * 30, "\xb2", "+5"])
def test_a_wrong_length_of_the_json_is_refused(service: Service, length: str) -> None:
    body = json.dumps({"inputs": [tensor(51)]})
    answered = service.ask("POST", INFER, body, Inference_Header_Content_Length=length)
    assert answered.status == 400 and "Inference-Header-Content-Length" in answered.json()["error"]


PIXELS = b"\0" * 48


@pytest.mark.parametrize(
    ("inputs", "rest", "said"),
    [
        ([binary_tensor(47)], PIXELS, "number of bytes after the JSON"),
        ([binary_tensor(48)], PIXELS[:-1], "number of bytes after the JSON"),
        ([binary_tensor(48)], PIXELS + b"x", "number of bytes after the JSON"),
        ([binary_tensor(47)], PIXELS[:-1], "binary_data_size must be 48, as the shape says"),
        ([binary_tensor(48, 2)], PIXELS, "binary_data_size must be 96, as the shape says"),
        ([binary_tensor()], None, "Inference-Header-Content-Length"),
        ([binary_tensor(data=[0] * 48)], PIXELS, "either data or binary_data_size"),
        ([tensor(0)], b"x", "no parameter binary_data_size"),
        ([binary_tensor(True)], PIXELS, "binary_data_size must be a whole number"),
        ([binary_tensor("48")], PIXELS, "binary_data_size must be a whole number"),  # type: ignore[arg-type]
        ([binary_tensor(parameters=[])], PIXELS, "parameters must be an object"),
        ([binary_tensor(parameters={"shared_memory_region": "a"})], None, "shared memory"),
        ([binary_tensor(parameters={})], None, "data must be a list"),
        ([tensor(0, datatype="BYTES", data=["x"])], None, "UINT8"),
        ([tensor(0), tensor(0)], None, "a list of one input"),
        ({}, None, "a list of one input"),
    ],
)  # fmt: skip
def test_wrong_inputs_are_refused(service: Service, inputs: Any, rest: bytes | None, said: str) -> None:
    answered = ask(service, inputs, rest)
    assert answered.status == 400 and said in answered.json()["error"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"outputs": [{"name": "logits"}]}, "the one output is probabilities"),
        ({"outputs": ["probabilities"]}, "the one output is probabilities"),
        ({"outputs": {}}, "the one output is probabilities"),
        ({"outputs": [{"name": "probabilities"}] * 2}, "more than once"),
        ({"outputs": [{"name": "probabilities", "parameters": 1}]}, "parameters must be an object"),
        ({"parameters": []}, "parameters must be an object"),
        ({"parameters": {"binary_data_output": 1}}, "binary_data_output must be true or false"),
        ({"id": 7}, "id must be a string"),
        *(
            ({"outputs": [{"name": "probabilities", "parameters": parameters}]}, said)
            for parameters, said in (
                ({"binary_data": "true"}, "binary_data must be true or false"),
                ({"classification": -1}, "classification must not be negative"),
                ({"classification": 1.5}, "classification must be a whole number"),
                ({"classification": True}, "classification must be a whole number"),
                ({"shared_memory_region": "a"}, "shared memory"),
            )
        ),
    ],
)
def test_wrong_requests_are_refused(service: Service, fields: Any, said: str) -> None:
    answered = ask(service, [tensor(0)], **fields)
    assert answered.status == 400 and said in answered.json()["error"]


# --- classification --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "given"), [(1, 1), (2, 2), (1000, 2)])
def test_classes_can_be_asked_for_by_name(service: Service, count: int, given: int) -> None:
    """`value:index:label`, the most probable first; never more than there are classes."""
    both = [["0.8:0:left", "0.2:1:<b>right</b>"], ["1.0:1:<b>right</b>", "0.0:0:left"]]
    expected = [text for one in both for text in one[:given]]
    wanted = {"name": "probabilities", "parameters": {"classification": count}}
    assert output(ask(service, [tensor(51, 255)], outputs=[wanted])) == {
        "name": "probabilities", "datatype": "BYTES", "shape": [2, given], "data": expected,
    }  # fmt: skip
    wanted["parameters"] = {"classification": count, "binary_data": True}
    reply, content = split(ask(service, [tensor(51, 255)], outputs=[wanted]))
    assert content == b"".join(struct.pack("<I", len(text)) + text.encode() for text in expected)
    assert reply["outputs"][0]["parameters"] == {"binary_data_size": len(content)}


def test_small_values_are_written_out(service: Service) -> None:
    """One pixel of 48 that is 1: 1 / (48 · 255) = 0.0000817, not 8.17e-05, which not every client reads."""
    wanted = [{"name": "probabilities", "parameters": {"classification": 2}}]
    data = output(ask(service, [tensor(data=[1] + [0] * 47, shape=[1, 4, 4, 3])], outputs=wanted))["data"]
    assert re.fullmatch(r"0\.000081699\d+:1:<b>right</b>", data[1])
    none = [{"name": "probabilities", "parameters": {"classification": 0}}]
    assert output(ask(service, [tensor(51)], outputs=none))["datatype"] == "FP32"


# --- the second output -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_outputs() -> Iterator[Service]:
    """A service whose model gives a distance, too: the mean of the pixels."""
    with in_thread(slow_app(Slow(distance=60.0))) as running:
        yield running


def test_the_distance_is_listed_and_comes_second_unless_outputs_are_named(two_outputs: Service) -> None:
    """As the protocol says: all outputs, where a request names none."""
    listed = two_outputs.ask("GET", "/v2/models/slow").json()["outputs"]
    assert listed[1] == {"name": "distance", "datatype": "FP32", "shape": [-1]}
    probabilities, distance = ask(two_outputs, [tensor(51, 255)]).json()["outputs"]
    assert probabilities["data"] == pytest.approx([0.8, 0.2, 0, 1])
    assert distance == {"name": "distance", "datatype": "FP32", "shape": [2], "data": [51.0, 255.0]}
    for name in ("probabilities", "distance"):
        (one,) = ask(two_outputs, [tensor(51)], outputs=[{"name": name}]).json()["outputs"]
        assert one["name"] == name
    turned = ask(two_outputs, [tensor(51)], outputs=[{"name": "distance"}, {"name": "probabilities"}])
    assert [one["name"] for one in turned.json()["outputs"]] == ["distance", "probabilities"]


def test_bytes_of_both_outputs_follow_in_their_order(two_outputs: Service) -> None:
    """Each says how many are its own; one of them may be in the JSON all the same."""
    reply, content = split(ask(two_outputs, [tensor(51)], parameters={"binary_data_output": True}))
    assert [one["parameters"] for one in reply["outputs"]] == [{"binary_data_size": 8}, {"binary_data_size": 4}]
    assert struct.unpack("<3f", content) == pytest.approx((0.8, 0.2, 51))
    mixed = [{"name": "distance"}, {"name": "probabilities", "parameters": {"binary_data": True, "classification": 1}}]
    reply, content = split(ask(two_outputs, [tensor(51)], outputs=mixed))
    assert reply["outputs"][0]["data"] == [51.0] and content == struct.pack("<I", 10) + b"0.8:0:left"
    reply, content = split(two_outputs.ask("POST", INFER, b"\x33" * 48, Inference_Header_Content_Length="0"))
    assert struct.unpack("<3f", content) == pytest.approx((0.8, 0.2, 51))


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ([{"name": "logits"}], "the outputs are probabilities and distance"),
        ([{"name": "distance"}] * 2, "distance more than once"),
        ([{"name": "distance", "parameters": {"classification": 2}}], "classification is for probabilities"),
    ],
)
def test_wrong_outputs_are_refused(two_outputs: Service, outputs: Any, said: str) -> None:
    answered = ask(two_outputs, [tensor(0)], outputs=outputs)
    assert answered.status == 400 and said in answered.json()["error"]


# --- other people's clients ------------------------------------------------------------------------------------------

CODINGS = (None, "gzip", "deflate")


@pytest.fixture(scope="module")
def real(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with process(model, tmp_path_factory.mktemp("real")) as running:
        yield running


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def rows(model: Path, images: np.ndarray) -> np.ndarray:
    return open_model(model).predict(images)


@pytest.mark.acceptance
def test_tritonclient(real: Service, model: Path, images: np.ndarray, rows: np.ndarray) -> None:
    """With its defaults, which are binary, and with each of its options."""
    from tritonclient import http

    distances = open_model(model).infer(images).distance
    client = http.InferenceServerClient(f"127.0.0.1:{real.port}")
    (version,) = client.get_model_metadata("model")["versions"]
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("model", version)
    assert not client.is_model_ready("model", "1")
    for binary in (True, False):
        tensor = http.InferInput("images", list(images.shape), "UINT8")
        tensor.set_data_from_numpy(images, binary_data=binary)
        result = client.infer("model", [tensor], request_id="caf\xe9", priority=1, timeout=1, parameters={"own": "x"})
        assert result.get_response()["id"] == "caf\xe9"
        assert np.allclose(result.as_numpy("probabilities"), rows, atol=1e-6)
        assert np.allclose(result.as_numpy("distance"), distances, atol=1e-3)
        wanted = [http.InferRequestedOutput("probabilities", binary_data=binary)]
        for sent, answered in [(one, other) for one in CODINGS for other in CODINGS]:
            codings = {"request_compression_algorithm": sent, "response_compression_algorithm": answered}
            result = client.infer("model", [tensor], version, wanted, **codings)
            assert np.allclose(result.as_numpy("probabilities"), rows, atol=1e-6)
        wanted = [http.InferRequestedOutput("probabilities", binary_data=binary, class_count=3)]
        named = client.infer("model", [tensor], outputs=wanted).as_numpy("probabilities")
        indices = [[int(text.split(b":" if binary else ":")[1]) for text in row] for row in named]
        assert indices == np.argsort(-rows, axis=1, kind="stable")[:, :3].tolist()
    client.close()


@pytest.mark.acceptance
def test_tritonclient_of_asyncio(real: Service, images: np.ndarray, rows: np.ndarray) -> None:
    """Another HTTP library beneath; MLServer's client for batches is made from it."""
    from tritonclient.http import InferInput, aio

    async def infer() -> list[np.ndarray]:
        tensor = InferInput("images", list(images.shape), "UINT8")
        tensor.set_data_from_numpy(images)
        async with aio.InferenceServerClient(f"127.0.0.1:{real.port}") as client:
            results = [
                await client.infer(
                    "model", [tensor], request_compression_algorithm=one, response_compression_algorithm=one
                )
                for one in CODINGS
            ]
        return [result.as_numpy("probabilities") for result in results]

    for found in asyncio.run(infer()):
        assert np.allclose(found, rows, atol=1e-6)


@pytest.mark.acceptance
def test_the_documented_client(
    real: Service, model: Path, images: np.ndarray, rows: np.ndarray, tmp_path: Path
) -> None:
    """The program of docs/reference/http.md, as it stands there but for the address and the name of the model."""
    text = (ROOT / "docs" / "reference" / "http.md").read_text()
    (found,) = re.findall(r"```py\n(import numpy.*?)```", text, re.DOTALL)
    program = found.replace("127.0.0.1:8000", f"127.0.0.1:{real.port}").replace('"cifar10"', '"model"')
    (tmp_path / "ask.py").write_text(program.replace("images = ", "images = np.load('images.npy')  # "))
    np.save(tmp_path / "images.npy", images)
    words = [sys.executable, "ask.py"]
    result = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=LONG, check=True)
    classes = open_model(model).classes
    assert [line.split()[0] for line in result.stdout.splitlines()] == [classes[row.argmax()] for row in rows]
