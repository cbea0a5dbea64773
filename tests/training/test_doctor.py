"""What `doctor` finds: named, and true where it can be checked another way."""

import json
import os
from pathlib import Path

import pytest
import torch

from tenfold.training import doctor, precision
from tests.support.process import Invoke


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENFOLD_OFFLINE", "1")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's speed is measured in a moment."""
    measure = doctor.matmul_gflops
    monkeypatch.setattr(doctor, "matmul_gflops", lambda dtype=torch.bfloat16: measure(dtype, 128, 0.02))


def checks(folder: Path) -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor.examine(folder)}


@pytest.mark.usefixtures("offline")
def test_checks(tmp_path: Path) -> None:
    found = checks(tmp_path)
    assert f"torch {torch.__version__}" in found["packages"].found
    assert f"{len(os.sched_getaffinity(0))} cores" in found["processor"].found
    assert float(found["matrix products"].found.split()[0]) > 1
    assert float(found["disk"].found.split()[0]) > 0 and not list(tmp_path.iterdir())
    assert (found["cuda"].found == "not here") == (not torch.cuda.is_available())
    assert found["sources"].so == "the network is not used"


@pytest.mark.usefixtures("offline")
def test_without_bfloat16_no_time_is_normalised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once times were to be multiplied by the rate of an emulated product."""
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: False)
    products = checks(tmp_path)["matrix products"]
    assert products.found.endswith("GFLOP/s in float32") and "not normalised" in products.so


@pytest.mark.usefixtures("offline")
def test_an_empty_cache_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENFOLD_HOME", str(tmp_path))
    assert "tenfold data download" in checks(tmp_path)["cache"].so


@pytest.mark.usefixtures("offline")
def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    assert "give --out" in checks(tmp_path / "missing")["disk"].so


def test_a_host_out_of_reach_is_reported() -> None:
    assert doctor._reach("http://127.0.0.1:9/").startswith("out of reach")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("", "run by ONNX Runtime; TENFOLD_RUNTIME=openvino lets OpenVINO run int8 files"),
        ("tensorrt", "TENFOLD_RUNTIME: unknown runtime 'tensorrt': choose onnxruntime or openvino"),
    ],
)
def test_the_command_says_what_runs_model_files(invoke: Invoke, variable: str, said: str) -> None:
    """A wrong variable is a check, not the end."""
    result = invoke("doctor", "--json", env=os.environ | {"TENFOLD_RUNTIME": variable, "TENFOLD_OFFLINE": "1"})
    found = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert (result.returncode, found["model files"]["so"], "processor" in found) == (0, said, True)
