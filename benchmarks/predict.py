"""How many images a second a model answers, by runtime, number format and batch, beside the reference network.

    python benchmarks/predict.py [--model FILE.onnx]... [--rounds 5] [--json]

All take turns, so that a busy neighbour slows all of them; medians over the rounds. float32 needs a file that was
exported with `--int8 off`. Where TensorFlow is installed, the reference network is timed in it too, and every figure is
also given as a multiple of it; else as a multiple of the 598 images a second that it reached on two cores of an AMD
EPYC (Zen 5). Needs no torch.
"""

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tenfold.console import log_info
from tenfold.machine import cores
from tenfold.serving.predictor import BUNDLED, open_model
from tenfold.serving.runtime import installed_runtimes, runtime_versions

BATCHES = (1, 64, 256)
MEASURED_BEFORE = 598.0
SECONDS = 0.5  # of each measurement
Predict = Callable[[np.ndarray], object]


def contenders(models: list[Path]) -> dict[str, Predict]:
    """What is timed, by name."""
    found: dict[str, Predict] = {}
    for path in models:
        model = open_model(path, "onnxruntime")
        found[f"{path.stem}, {'int8' if model.about.quantized else 'float32'}, onnxruntime"] = model.predict
        if "openvino" in installed_runtimes() and model.about.quantized:
            found[f"{path.stem}, int8, openvino"] = open_model(path, "openvino").predict
        elif "openvino" in installed_runtimes():
            found[f"{path.stem}, bfloat16, openvino"] = in_bfloat16(path)
    return found | ({"reference, TensorFlow": reference()} if importlib.util.find_spec("tensorflow") else {})


def in_bfloat16(path: Path) -> Predict:
    """OpenVINO at its fastest for such a file; tenfold does not use it, since answers differ by up to 0.02."""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": cores(), "NUM_STREAMS": 1}
    return core.compile_model(core.read_model(path), "CPU", settings)


def reference() -> Predict:
    """The reference system's network (17 million parameters, untrained: the time is the same) in Keras."""
    import tensorflow as tf
    from keras_reference import build

    network = build()
    compiled = tf.function(lambda images: network(tf.cast(images, tf.float32) / 255, training=False), autograph=False)
    return lambda images: compiled(tf.constant(images)).numpy()


def rate(predict: Predict, batch: np.ndarray) -> float:
    """Images a second."""
    began, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < SECONDS:
        predict(batch)
        count += len(batch)
    return count / passed


def measure(found: dict[str, Predict], rounds: int) -> list[dict[str, object]]:
    """Rows of name, batch and images a second, median of rounds in which all take turns."""
    images = np.random.default_rng(0).integers(0, 256, (max(BATCHES), 32, 32, 3), dtype=np.uint8)
    rates: dict[tuple[str, int], list[float]] = {(name, batch): [] for batch in BATCHES for name in found}
    for name, batch in rates:
        found[name](images[:batch])  # what is compiled for a new shape is no part of the time
    for done in range(rounds):
        for name, batch in rates:
            rates[name, batch].append(rate(found[name], images[:batch]))
        log_info(f"round {done + 1} of {rounds}")
    medians = {key: statistics.median(values) for key, values in rates.items()}
    slow = medians.get(("reference, TensorFlow", max(BATCHES)), MEASURED_BEFORE)
    return [
        {"name": name, "batch": batch, "images_per_second": value, "multiple_of_reference": value / slow}
        for (name, batch), value in medians.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time prediction.")
    parser.add_argument("--model", type=Path, action="append", help="exported files, by default the bundled one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = measure(contenders(options.model or [BUNDLED]), options.rounds)
    about = {"cores": cores(), "runtimes": runtime_versions(), "tensorflow": "tensorflow" in sys.modules}
    if options.json:
        print(json.dumps({**about, "results": rows}))
        return
    print(about)
    for row in rows:
        print("{name:40} batch {batch:4} {images_per_second:9,.0f} /s {multiple_of_reference:6.1f} ×".format(**row))


if __name__ == "__main__":
    main()
