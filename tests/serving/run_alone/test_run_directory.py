"""A run on a read-only disk, without its model file, of the first format, of data that is not here."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tenfold.data.shapes import make_shapes
from tenfold.training.augment import Normalization
from tenfold.training.recipe import Recipe
from tenfold.training.run import Run
from tests.support.forks import run_program
from tests.support.process import ROOT, Command, Invoke
from tests.support.run_alone import CLASSES, ENV, gone, torch_probabilities, write_images

OLD = ROOT / "tests" / "runs" / "format-1"


READ_ONLY = """
import errno, os, sys
from tenfold import cli

run = sys.argv.pop(1)


def guard(event, words):
    writes = event == "open" and isinstance(words[2], int) and words[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if (writes or event in ("os.mkdir", "os.rename", "os.remove", "os.chmod")) and str(words[0]).startswith(run):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), words[0])


sys.addaudithook(guard)
cli.main()
"""


@pytest.mark.slow
def test_a_run_on_a_read_only_disk_answers(trained: dict[str, Any], run: Path, photo: Path, tmp_path: Path) -> None:
    """From the file that training left. Without it, the error says how to have it elsewhere."""
    finished = Path(shutil.copytree(trained["run"], tmp_path / "finished"))
    answered = run_program(READ_ONLY, finished, "predict", photo, "--model", finished, "--json")
    assert (answered.returncode, answered.stderr) == (0, "") and json.loads(answered.stdout)["label"] in CLASSES
    refused = run_program(READ_ONLY, run, "predict", photo, "--model", run)
    assert refused.returncode == 7 and "Traceback" not in refused.stderr
    assert f"tenfold export {run} --out FILE.onnx writes it elsewhere, then use --model FILE.onnx" in refused.stderr
    assert run_program(READ_ONLY, run, "export", run, "--out", tmp_path / "x.onnx").returncode == 0
    other = write_images(tmp_path / "other", make_shapes(8, train=1, test=40))
    scored = run_program(READ_ONLY, run, "evaluate", run, "--data", other, "--json")
    assert scored.returncode == 0 and json.loads(scored.stdout)["test_images"] == 12, scored.stderr


def test_a_model_file_that_is_gone_is_written_again_and_a_damaged_one_is_named(
    invoke: Invoke, trained: dict[str, Any], changed: Callable[[Any], Path], photo: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(trained["run"], tmp_path / "run"))
    changed(gone)
    content = (run / "model.onnx").read_bytes()
    (run / "model.onnx").unlink()
    code, _, err = invoke("predict", photo, "--model", run)
    assert code == 0 and "its model is written as ONNX, once" in err
    assert (run / "model.onnx").read_bytes() == content
    (run / "model.onnx").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    code, _, err = invoke("predict", photo, "--model", run)
    assert code == 4 and f"model.onnx is damaged: write it again with tenfold export {run}" in err
    assert invoke("export", run)[0] == 0
    assert invoke("predict", photo, "--model", run)[0] == 0 and (run / "model.onnx").read_bytes() == content


@pytest.mark.slow
def test_a_run_of_the_first_format_answers(fork: Command, photo: Path, tmp_path: Path) -> None:
    """It noted neither its images nor a fingerprint of them; `shapes` is drawn, so its test images are there."""
    run = Path(shutil.copytree(OLD, tmp_path / "run"))
    result = fork("export", run, "--json")
    assert result.returncode == 0 and json.loads(result.stdout)["verified_on"] == "test images", result.stderr
    answered = fork("predict", photo, "--model", run, "--json")
    (expected,) = torch_probabilities(Run.open(run), np.array(Image.open(photo))[None], 1.0)
    assert json.loads(answered.stdout)["probability"] == pytest.approx(expected.max(), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("offline", [False, True])
def test_a_cifar10_run_is_exported_where_cifar10_is_not(
    fork: Command, tiny_recipe: Path, tmp_path: Path, photo: Path, offline: bool
) -> None:
    """An empty cache, with and without a network: nothing is downloaded to check a file; npm would say that it came."""
    run = Run.create(tmp_path / "run", Recipe.from_json(tiny_recipe.read_bytes()), ENV | {"data": "cifar10"})
    from tenfold.training.model import build
    from tenfold.training.weights import describe_model

    network = build(run.recipe.network)
    run.save_model(network, describe_model(run.recipe.network, make_shapes(0, 1, 1).classes, 32, Normalization()))
    run.write_manifest()
    run.unlock()
    (tmp_path / "bin").mkdir()
    for name in ("npm", "curl"):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/called\nexit 1\n")
        (tmp_path / "bin" / name).chmod(0o755)
    env = os.environ | {"TENFOLD_HOME": str(tmp_path / "home"), "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    env |= {"TENFOLD_CIFAR10_URL": "http://127.0.0.1:9/none.tar.gz"} | ({"TENFOLD_OFFLINE": "1"} if offline else {})
    result = fork("export", run.path, "--json", env=env)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["verified_on"] == "synthetic images"
    assert "cifar10, which " in result.stderr and "is not in the cache of this machine" in result.stderr
    assert fork("predict", photo, "--model", run.path, env=env).returncode == 0
    assert not (tmp_path / "called").exists() and not list(tmp_path.glob("home/**/cifar10*"))
