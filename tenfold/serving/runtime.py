"""What runs a model file: ONNX Runtime or OpenVINO, which one, and how it is started. Needs no torch and no onnx."""

import importlib.util
import os
import sys
import threading
from collections.abc import Callable
from importlib.metadata import version

import numpy as np

from tenfold.errors import UsageError, did_you_mean
from tenfold.machine import cores

RUNTIMES = ("onnxruntime", "openvino")
VARIABLE = "TENFOLD_RUNTIME"


def installed_runtimes() -> list[str]:
    """The runtimes that are here."""
    return [runtime for runtime in RUNTIMES if importlib.util.find_spec(runtime) is not None]


def runtime_versions() -> str:
    """The runtimes that are here, each with its version."""
    return ", ".join(f"{runtime} {version(runtime)}" for runtime in installed_runtimes())


def choose_runtime(quantized: bool) -> tuple[str, str]:
    """Which runtime runs such a model here, and why, as a sentence. Raises `UsageError` for a wrong `VARIABLE`."""
    wanted = os.environ.get(VARIABLE) or "onnxruntime"
    if check_runtime(wanted, f"{VARIABLE}: ") == "openvino":
        chosen = "openvino" if quantized else "onnxruntime"
        return chosen, f"int8 files are run by OpenVINO, as {VARIABLE} says, the others by ONNX Runtime"
    return "onnxruntime", f"run by ONNX Runtime; {VARIABLE}=openvino lets OpenVINO run int8 files"


def check_runtime(runtime: str, where: str = "") -> str:
    """A runtime's name, if it is one and installed. where: what comes before it in errors. Raises `UsageError`."""
    if runtime not in RUNTIMES:
        raise UsageError(
            f"{where}unknown runtime {runtime!r}: choose {' or '.join(RUNTIMES)}{did_you_mean(runtime, RUNTIMES)}"
        )
    if runtime not in installed_runtimes():
        raise UsageError(f"{where}{runtime} is not installed: install it with pip install {runtime}")
    return runtime


# --- starting them -----------------------------------------------------------------------------------------------


Run = Callable[[np.ndarray], list[np.ndarray]]
"""Maps images uint8 N×S×S×3 to all outputs of a file, in its order. Safe from many threads."""


def start(runtime: str, content: bytes, spin: bool) -> Run:
    """Load a model file's bytes, ready to run.

    spin: see `open_model`. Raises whatever the runtime does.
    """
    return _START[runtime](content, spin)


def _start_onnxruntime(content: bytes, spin: bool) -> Run:
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # of its Windows builds, which read no variable
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})


def _start_openvino(content: bytes, _spin: bool) -> Run:
    # Importing openvino reports to its maker unless this package is missing: so it is, for this process.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": cores(), "NUM_STREAMS": 1}
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(content), "CPU", settings)
    request, lock = compiled.create_infer_request(), threading.Lock()

    def run(images: np.ndarray) -> list[np.ndarray]:
        with lock:
            answers = request.infer([images])
            return [np.array(answers[number]) for number in range(len(compiled.outputs))]

    return run


_START = {"onnxruntime": _start_onnxruntime, "openvino": _start_openvino}
