"""Bodies and addresses as clients write them: compressed, in base64 of every kind, in forms; parameters misspelt.

The model of these tests sees 4×4 pixels and knows "left" and "<b>right</b>".
"""

import base64
import gzip
import io
import json
import tracemalloc
import zlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from tenfold.serving.serve.encoding import best_coding, decompress
from tenfold.serving.serve.limits import Limits
from tenfold.serving.serve.refusal import RefusalError
from tests.support.served import PredictionResult, Service, Slow, in_thread, slow_app


def png(seed: int = 0) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)).save(content, "PNG")
    return content.getvalue()


def awkward_png() -> bytes:
    """One whose base64 needs padding and has both letters that the alphabets do not share."""
    return next(
        content
        for content in map(png, range(10_000))
        if len(content) % 3 == 1 and {"+", "/"} <= set(base64.b64encode(content).decode())
    )


IMAGE = awkward_png()
PLAIN = base64.b64encode(IMAGE).decode()


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with in_thread(slow_app(Slow())) as running:
        yield running


@pytest.fixture(scope="module")
def expected(service: Service) -> bytes:
    """What is answered for the one image, sent as it is."""
    return ask(service, IMAGE).body


def ask(service: Service, body: bytes | str, path: str = "/predict", **headers: str) -> PredictionResult:
    answered = service.ask("POST", path, body, **headers)
    assert answered.status == 200, answered.body
    return answered


def refusal(answered: PredictionResult, status: int = 400) -> str:
    assert answered.status == status and set(answered.json()) == {"error"}, answered.body
    return str(answered.json()["error"])


# --- compressed bodies -----------------------------------------------------------------------------------------------


def deflate_raw(content: bytes) -> bytes:
    engine = zlib.compressobj(wbits=-15)
    return engine.compress(content) + engine.flush()


def gzip_in_parts(content: bytes) -> bytes:
    return gzip.compress(content[:20]) + gzip.compress(content[20:])


CODED = {
    "gzip": gzip.compress(IMAGE),
    "GZIP": gzip_in_parts(IMAGE),
    "x-gzip": gzip.compress(IMAGE),
    "identity, gzip": gzip.compress(IMAGE),
    "deflate": zlib.compress(IMAGE),
    "Deflate": deflate_raw(IMAGE),  # wrong by the standard, and common
    "identity": IMAGE,
    "": IMAGE,
}


@pytest.mark.parametrize("coding", CODED)
def test_compressed_bodies_are_read(service: Service, expected: bytes, coding: str) -> None:
    assert ask(service, CODED[coding], Content_Encoding=coding).body == expected


def test_forms_and_tensors_may_be_compressed(service: Service, expected: bytes) -> None:
    body, kind = form(file_part(IMAGE))
    assert ask(service, gzip.compress(body), Content_Type=kind, Content_Encoding="gzip").body == expected
    images = {"name": "images", "datatype": "UINT8", "shape": [1, 4, 4, 3], "data": [255] * 48}
    answered = ask(
        service,
        zlib.compress(json.dumps({"inputs": [images]}).encode()),
        "/v2/models/slow/infer",
        Content_Encoding="deflate",
    )
    assert answered.json()["outputs"][0]["data"] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", b""),
        ("gzip", IMAGE),
        ("gzip", gzip.compress(IMAGE)[:-1]),
        ("gzip", gzip.compress(IMAGE)[:-8] + bytes(8)),  # of another checksum
        ("gzip", gzip.compress(IMAGE) + b"more"),
        ("deflate", zlib.compress(IMAGE)[:-1]),
        ("deflate", zlib.compress(IMAGE) * 2),  # only gzip has members
        ("deflate", zlib.compress(IMAGE) + bytes(8)),
        ("gzip", gzip.compress(IMAGE) + bytes(8) + b"more"),
        ("deflate", b"\xff\xff"),
        ("deflate", b"x"),
    ],
)
def test_damaged_compressed_bodies_are_refused(service: Service, coding: str, body: bytes) -> None:
    assert coding in refusal(service.ask("POST", "/predict", body, Content_Encoding=coding))


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "gzip, deflate", "compress"])
def test_other_codings_are_refused(service: Service, coding: str) -> None:
    """And the answer says which ones are known (RFC 9110, 15.5.16)."""
    answered = service.ask("POST", "/predict", b"x", Content_Encoding=coding)
    assert "gzip or deflate" in refusal(answered, 415)
    assert answered.headers["accept-encoding"] == "gzip, deflate"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_bomb_is_refused(service: Service, coding: str) -> None:
    """100 MB of zeros in 100 kB."""
    bomb = {"gzip": gzip.compress, "deflate": zlib.compress}[coding](bytes(100 * 2**20))
    assert len(bomb) < 110_000
    said = refusal(service.ask("POST", "/predict", bomb, Content_Encoding=coding), 413)
    assert said == "the body is larger than 16,777,216 bytes when it is decompressed"


def test_a_bomb_takes_no_memory() -> None:
    """Decompressed whole, it would take a hundred times as much as is allowed."""
    bomb = gzip.compress(bytes(100 * 2**20))
    tracemalloc.start()
    try:
        with pytest.raises(RefusalError, match="larger than 1,048,576 bytes"):
            decompress(bomb, "gzip", 2**20)
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()
    assert decompress(gzip.compress(bytes(2**20)), "gzip", 2**20) == bytes(2**20)


def test_zeros_after_gzip_are_padding() -> None:
    """As gzip(1) has it, wherever the pieces end that are read at a time."""
    for count in (1, 511, 2**16, 2**17 + 1):
        assert decompress(gzip.compress(b"a") + gzip.compress(b"b") + bytes(count), "gzip", 10) == b"ab"


def test_a_body_of_countless_parts_is_refused() -> None:
    """Each costs far more time than bytes."""
    part = gzip.compress(b"")
    assert decompress(part * 1_000, "gzip", 100) == b""
    with pytest.raises(RefusalError):
        decompress(part * 1_001, "gzip", 100)


def test_what_is_decompressed_counts_as_held() -> None:
    """600 kB in less than 1 kB, where all bodies together may have 500 kB; and it is let go of."""
    limits, body = Limits(body=2**20, held=500_000), gzip.compress(bytes(600_000))
    with in_thread(slow_app(Slow(), limits)) as service:
        for _ in range(2):
            answered = service.ask("POST", "/predict", body, Content_Encoding="gzip")
            assert "too much is being sent at once" in refusal(answered, 503)
        assert service.ask("POST", "/predict", gzip.compress(IMAGE), Content_Encoding="gzip").status == 200


# --- compressed answers ----------------------------------------------------------------------------------------------


def test_long_answers_are_compressed_where_that_is_accepted(service: Service) -> None:
    body, kind = form(*[file_part(IMAGE)] * 20)
    plain = ask(service, body, Content_Type=kind)
    assert len(plain.body) > 1024 and "content-encoding" not in plain.headers
    unpack = {"gzip": gzip.decompress, "deflate": zlib.decompress}
    for accepted, coding in (("gzip, deflate, br", "gzip"), ("deflate", "deflate"), ("gzip;q=0, *", "deflate")):
        answered = ask(service, body, Content_Type=kind, Accept_Encoding=accepted)
        assert (answered.headers["content-encoding"], answered.headers["vary"]) == (coding, "Accept-Encoding")
        assert len(answered.body) == int(answered.headers["content-length"]) < len(plain.body)
        assert unpack[coding](answered.body) == plain.body
    short = ask(service, IMAGE, Accept_Encoding="gzip")
    assert "content-encoding" not in short.headers and short.headers["vary"] == "Accept-Encoding"


def test_compressed_tensors_keep_the_length_of_their_json(service: Service) -> None:
    """It counts what is there after decompression, as in Triton."""
    images: Any = {
        "name": "images",
        "datatype": "UINT8",
        "shape": [32, 4, 4, 3],
        "parameters": {"binary_data_size": 1536},
    }
    head = json.dumps({"id": "x" * 1000, "inputs": [images], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference_Header_Content_Length": str(len(head)), "Content_Encoding": "gzip"}
    body = gzip.compress(head + b"\xff" * 1536)
    answered = ask(service, body, "/v2/models/slow/infer", Accept_Encoding="gzip", **headers)
    content, length = gzip.decompress(answered.body), int(answered.headers["inference-header-content-length"])
    assert json.loads(content[:length])["outputs"][0]["parameters"] == {"binary_data_size": 256}
    assert np.frombuffer(content[length:], "<f4").reshape(32, 2).tolist() == [[0, 1]] * 32


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        ("", None),
        ("gzip", "gzip"),
        ("GZIP", "gzip"),
        ("br, zstd", None),
        ("deflate, gzip", "gzip"),
        ("deflate;q=1.0, gzip;q=0.5", "deflate"),
        ("gzip;q=0", None),
        ("gzip; Q=0.000, deflate;q=0", None),
        ("*", "gzip"),
        ("*;q=0", None),
        ("identity, gzip;q=0.5", None),
        ("identity;q=0.5, gzip", "gzip"),
        ("gzip;q=x", None),
        ("gzip;q=9", None),
        (";,;q=", None),
    ],
)
def test_which_coding_is_answered(header: str, coding: str | None) -> None:
    """By RFC 9110, 12.5.3."""
    assert best_coding(header) == coding


# --- base64 ----------------------------------------------------------------------------------------------------------

URL_SAFE = base64.urlsafe_b64encode(IMAGE).decode()
WRITTEN = {
    "as it is": PLAIN,
    "in lines of 76": base64.encodebytes(IMAGE).decode(),
    "in lines of 64 as of PEM": "\r\n".join(PLAIN[i : i + 64] for i in range(0, len(PLAIN), 64)),
    "with spaces around": f" \t{PLAIN}\n",
    "without padding": PLAIN.rstrip("="),
    "for URLs": URL_SAFE,
    "for URLs, without padding": URL_SAFE.rstrip("="),
    "as a data URI": f"data:image/png;base64,{PLAIN}",
    "as a data URI without a type": f"data:;base64,{PLAIN}",
    "as a data URI with a parameter": f"DATA:image/png;name=a.png;BASE64,{PLAIN}",
    "as a data URI in lines": f"data:image/png;base64,\n{base64.encodebytes(IMAGE).decode()}",
    "as a data URI, quoted": f"data:image/png;base64,{quote(PLAIN, safe='')}",
}


@pytest.mark.parametrize("way", WRITTEN)
def test_base64_is_read_however_it_is_written(service: Service, expected: bytes, way: str) -> None:
    body = json.dumps({"image": WRITTEN[way]})
    assert ask(service, body, Content_Type="application/json").body == expected


@pytest.mark.parametrize(
    "text",
    [
        "abcde",  # no number of bytes has a base64 of this length
        "aGFsbG8=aGFsbG8=",
        "aGFsbG8==",
        "aGFs*bG8=",
        "caf\xe9",
        "data:image/png,abc",
        "data:image/png;base64",
        "data:text/plain;base64;x,aGFsbG8=",
        "http://localhost/cat.png",
    ],
)
def test_what_is_not_base64_is_refused(service: Service, text: str) -> None:
    said = refusal(service.ask("POST", "/predict", json.dumps({"image": text}), Content_Type="application/json"))
    assert "base64" in said and text not in said


# --- forms -----------------------------------------------------------------------------------------------------------


def file_part(content: bytes, head: str = 'form-data; name="image"; filename="a.png"', kind: str = "") -> bytes:
    lines = f"Content-Disposition: {head}\r\n" + (f"Content-Type: {kind}\r\n" if kind else "")
    return f"--sep\r\n{lines}\r\n".encode() + content + b"\r\n"


def text_part(name: str, content: str = "x", kind: str = "") -> bytes:
    return file_part(content.encode(), f'form-data; name="{name}"', kind)


def form(*parts: bytes) -> tuple[bytes, str]:
    return b"".join(parts) + b"--sep--\r\n", "multipart/form-data; boundary=sep"


FORMS = {
    "with text": form(
        text_part("csrf", "1"), file_part(IMAGE), text_part("note", "a cat", "text/plain; charset=utf-8")
    ),
    "with an empty text": form(text_part("note", ""), file_part(IMAGE)),
    "with a file that nobody chose": form(
        file_part(IMAGE), file_part(b"", 'form-data; name="image"; filename=""', "application/octet-stream")
    ),
    "without a filename": form(file_part(IMAGE, 'form-data; name="image"', "image/png")),
    "with JSON": form(file_part(b"{}", 'form-data; name="about"', "application/json"), file_part(IMAGE)),
    "with a filename that is not ASCII": form(file_part(IMAGE, "form-data; name=\"image\"; filename*=UTF-8''b%C3%A4r")),
}


@pytest.mark.parametrize("way", FORMS)
def test_forms_are_read_as_they_are_sent(service: Service, expected: bytes, way: str) -> None:
    body, kind = FORMS[way]
    assert ask(service, body, Content_Type=kind).body == expected


@pytest.mark.parametrize(
    ("parts", "status", "said"),
    [
        ([text_part("note")], 400, "there is no image"),
        ([], 400, "there is no image"),
        ([file_part(IMAGE), text_part("top", "3")], 400, "/predict?top="),
        ([file_part(IMAGE), text_part("reject", "true")], 400, "/predict?reject="),
        ([file_part(IMAGE), text_part("pixels", "true")], 400, "/predict?pixels="),
        ([file_part(IMAGE), text_part("image", PLAIN)], 400, "sent as text"),
        ([file_part(IMAGE), text_part("files[]", PLAIN)], 400, "sent as text"),
        ([file_part(b"")], 400, "there is no image"),
        ([file_part(IMAGE)] + [text_part("note")] * 131, 200, ""),
        ([file_part(IMAGE)] + [text_part("note")] * 132, 413, "132 parts"),
    ],
)
def test_what_a_form_may_not_hold(service: Service, parts: list[bytes], status: int, said: str) -> None:
    """A field that would be passed over in silence, though something was meant by it, is refused."""
    body, kind = form(*parts)
    answered = service.ask("POST", "/predict", body, Content_Type=kind)
    assert answered.status == status and said in answered.json().get("error", "")


# --- parameters of the address ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("tpo=3", 'unknown query parameter "tpo": did you mean top? '),
        ("Top=3", 'unknown query parameter "Top": did you mean top? '),
        ("rejected=true", 'unknown query parameter "rejected": did you mean reject? '),
        ("top=1&v=2", 'unknown query parameter "v": '),
        ("=", 'unknown query parameter "": '),
        ("x" * 10_000, f'unknown query parameter "{"x" * 50}": '),
    ],
)
def test_unknown_query_parameters_are_refused(service: Service, query: str, said: str) -> None:
    """Before, `?tpo=3` was answered with five guesses."""
    answered = service.ask("POST", f"/predict?{query}", IMAGE)
    assert refusal(answered) == f"{said}this path takes top, reject, pixels"


def test_a_parameter_that_is_given_twice_is_refused(service: Service) -> None:
    said = refusal(service.ask("POST", "/predict?top=1&top=2", IMAGE))
    assert said == "the query parameter top is given more than once"


def test_inference_takes_no_query_parameter(service: Service) -> None:
    for path in ("/v2/models/slow/infer", "/v2/models/slow/versions/000000000000/infer"):
        said = refusal(service.ask("POST", f"{path}?top=3", b"{}"))
        assert said == 'unknown query parameter "top": this path takes none'


@pytest.mark.parametrize("path", ["/healthz", "/v2/health/ready", "/metrics", "/", "/model", "/v2/models/slow/ready"])
def test_watchers_may_add_parameters(service: Service, path: str) -> None:
    """Load balancers and caches add some, to get past caches."""
    assert service.ask("GET", f"{path}?_=123").status == service.ask("HEAD", f"{path}?_=123").status == 200
