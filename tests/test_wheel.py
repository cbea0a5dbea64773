"""The wheel works where it is installed: in an environment of its own, away from the source."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tenfold
from tests.support.process import ROOT
from tests.support.waiting import LONG

pytestmark = pytest.mark.slow
DEPENDENCIES = ("filelock", "numpy", "onnxruntime", "PIL", "platformdirs", "rich", "typer")


def pip(*words: str | Path) -> None:
    line = [sys.executable, "-m", "pip", *map(str, words), "--quiet", "--no-deps", "--no-index"]
    ended = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the source, as building leaves files in it, with the setuptools that is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "tenfold", folder / "source" / "tenfold", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    pip("wheel", "--no-build-isolation", "--wheel-dir", folder, folder / "source")
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the wheel, and the packages that it needs by their folders; tenfold's source is on no path."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    found = {str(Path(find_spec(name).submodule_search_locations[0]).parent) for name in DEPENDENCIES}  # type: ignore[union-attr,index]
    (packages / "dependencies.pth").write_text("\n".join(sorted(found)))
    pip("--python", folder / "bin" / "python", "install", wheel)
    return folder / "bin"


def run(program: Path, *words: str | Path, cwd: Path) -> str:
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "TENFOLD_RUNTIME")}
    ended = subprocess.run([program, *words], cwd=cwd, env=env, capture_output=True, text=True, timeout=LONG)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_every_file_of_the_package_is_in_the_wheel(wheel: Path) -> None:
    """Pages, scripts, the bundled model, the search's space, py.typed: what setuptools is not given, it leaves out."""
    own = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tenfold").rglob("*") if path.is_file()}
    own = {name for name in own if "__pycache__" not in name}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == own and "tenfold/serving/models/cifar10.onnx" in packed


def test_the_installed_command_predicts_with_the_bundled_model(environment: Path, tmp_path: Path) -> None:
    assert run(environment / "tenfold", "--version", cwd=tmp_path).split()[-1] == tenfold.__version__
    where = run(environment / "python", "-c", "import tenfold; print(tenfold.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(environment.parent)
    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(tmp_path / "grey.png")
    answer = json.loads(run(environment / "tenfold", "predict", "grey.png", "--json", cwd=tmp_path))
    assert answer["path"] == "grey.png" and 0 < answer["probability"] <= 1 and len(answer["top"]) >= 1
