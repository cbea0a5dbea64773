"""The reference recipe here and in Keras on TensorFlow, alternately on the same machine.

    python benchmarks/reference.py [--rounds 3] [--json]

Rows: training in batches of 64 with augmentation, in images a second; prediction in batches of 1, 64 and 256; peak
memory of a process that trains, and of one that predicts; the time of the whole recipe, which is steps × the measured
time of one, plus the validation images of every epoch. Keras runs in float32 and in its best setting, mixed bfloat16;
tenfold as `tenfold train` runs, and for predictions the faster of the exported float32 file and the network in torch.
Each contender is a process of its own, started at every turn, so that a busy neighbour slows all of them; medians over
the rounds. Needs the extras `train` and `acceptance`.

Keras's input is what the reference system had: `ImageDataGenerator`'s transforms, here as one call of TensorFlow's own
image operation for a batch, which is the faster way.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

BATCH, WARM_STEPS, SECONDS = 64, 3, 8.0
BATCHES = (1, 64, 256)
TRAIN_IMAGES, VAL_IMAGES, EPOCHS = 40_000, 10_000, 35
CONTENDERS = ("keras float32", "keras mixed_bfloat16", "tenfold")
Result = dict[str, float]


# --- one contender, in a process of its own ------------------------------------------------------------------------


def images(count: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 N×32×32×3 and labels: drawn at random, which takes as long as photographs."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, count)


def rate(step: Callable[[], object], count: int, warm: int = WARM_STEPS) -> float:
    """Images a second of a step over `count` of them."""
    for _ in range(warm):
        step()
    began, done = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < SECONDS:
        step()
        done += count
    return done / passed


def keras_training(precision: str) -> Result:
    """Keras's own training step, fed by tf.data with what ImageDataGenerator does to images.

    That is `train_on_batch`, which `fit` repeats.
    """
    import keras
    import tensorflow as tf
    from keras_reference import build, compile_stage

    keras.config.set_dtype_policy(precision)
    network = build()
    compile_stage(network, 3e-4)
    pixels, labels = images(20 * BATCH)
    data = tf.data.Dataset.from_tensor_slices((pixels, np.eye(10, dtype=np.float32)[labels]))
    data = data.shuffle(len(pixels)).repeat().batch(BATCH, drop_remainder=True)
    batches = iter(data.map(lambda x, y: (_augment(x), y), tf.data.AUTOTUNE).prefetch(2))
    return {"images_per_second": rate(lambda: network.train_on_batch(*next(batches)), BATCH)}


def _augment(batch: Any) -> Any:
    """Turn by ±15° about the centre and shift by ±10 % in one bilinear resampling, edges repeated; flip half."""
    import tensorflow as tf

    count, centre = tf.shape(batch)[0], 15.5
    angle = tf.random.uniform([count], -1.0, 1.0) * (np.pi / 12)
    cos, sin = tf.cos(angle), tf.sin(angle)
    x, y = (tf.random.uniform([count], -3.2, 3.2) - centre for _ in range(2))
    zero = tf.zeros([count])
    moves = tf.stack((cos, -sin, cos * x - sin * y + centre, sin, cos, sin * x + cos * y + centre, zero, zero), 1)
    scaled = tf.cast(batch, tf.float32) / 255
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=scaled,
        transforms=moves,
        output_shape=[32, 32],
        interpolation="BILINEAR",
        fill_mode="NEAREST",
        fill_value=0.0,
    )
    return tf.where(tf.random.uniform([count, 1, 1, 1]) < 0.5, moved, moved[:, :, ::-1])


def keras_prediction(precision: str) -> Result:
    """A compiled call, which is faster than `predict` and its set-up of every call."""
    import keras
    import tensorflow as tf
    from keras_reference import build

    keras.config.set_dtype_policy(precision)
    network, (pixels, _) = build(), images(max(BATCHES))
    call = tf.function(lambda x: network(tf.cast(x, tf.float32) / 255, training=False), autograph=False)
    return {f"batch {n}": rate(lambda n=n: call(tf.constant(pixels[:n])).numpy(), n) for n in BATCHES}


def tenfold_training() -> Result:
    """The loop of `tenfold train`."""
    from dataclasses import replace

    from tenfold.data.dataset import Dataset, Split
    from tenfold.training.recipes import REFERENCE
    from tenfold.training.trainer import Trainer

    train = Split(*images(20 * BATCH))
    data = Dataset("noise", tuple("0123456789"), train, train[:0])
    trainer = Trainer(replace(REFERENCE, val_size=0), data, device="cpu")
    return {"images_per_second": rate(trainer.train_step, BATCH)}


def tenfold_prediction() -> Result:
    """The exported ONNX file (float32), and the network in torch as `tenfold evaluate` runs it."""
    import torch

    from tenfold.serving.export import pack
    from tenfold.serving.graph import to_onnx
    from tenfold.serving.model_file import ModelMetadata
    from tenfold.serving.predictor import open_bytes
    from tenfold.training.augment import Normalization
    from tenfold.training.device import select_device
    from tenfold.training.infer import predict_logits
    from tenfold.training.model import build
    from tenfold.training.recipes import REFERENCE

    network, device_config, (pixels, _) = build(REFERENCE.network).eval(), select_device("cpu"), images(max(BATCHES))
    about = ModelMetadata(tuple("abcdefghij"), 32, "stretch", 1.0, None, None, False, {})
    file = open_bytes(pack(to_onnx(network, Normalization(), 10, 32), about), "reference")
    results = {f"exported, batch {n}": rate(lambda n=n: file.predict(pixels[:n]), n) for n in BATCHES}
    tensor = torch.from_numpy(pixels)
    return results | {
        f"batch {n}": rate(lambda n=n: predict_logits(network, tensor[:n], Normalization(), device_config), n)
        for n in BATCHES
    }


def measure_one(contender: str, what: str) -> Result:
    """What the process that this is measures."""
    kind, _, precision = contender.partition(" ")
    work = {
        ("keras", "training"): lambda: keras_training(precision),
        ("keras", "prediction"): lambda: keras_prediction(precision),
        ("tenfold", "training"): tenfold_training,
        ("tenfold", "prediction"): tenfold_prediction,
    }[kind, what]()
    import resource

    return work | {"peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}


# --- all of them -----------------------------------------------------------------------------------------------------


def run_one(contender: str, what: str, home: str) -> Result:
    """Measure in a new process, with nothing written to the user's Keras settings."""
    settings = {"KERAS_BACKEND": "tensorflow", "KERAS_HOME": home, "TF_CPP_MIN_LOG_LEVEL": "3"}
    words = [sys.executable, __file__, "--one", contender, what]
    answer = subprocess.run(words, env=os.environ | settings, capture_output=True, text=True)
    if answer.returncode:
        sys.exit(answer.stderr)
    return json.loads(answer.stdout.splitlines()[-1])


def measure_all(rounds: int) -> dict[str, dict[str, Result]]:
    """Medians by contender and by what was measured."""
    seen: dict[tuple[str, str], list[Result]] = {}
    with tempfile.TemporaryDirectory() as home:
        for done in range(rounds):
            for what in ("training", "prediction"):
                for contender in CONTENDERS:
                    seen.setdefault((contender, what), []).append(run_one(contender, what, home))
            print(f"round {done + 1} of {rounds}", file=sys.stderr)
    medians = {
        key: {name: statistics.median(found[name] for found in results) for name in results[0]}
        for key, results in seen.items()
    }
    return {
        contender: {what: medians[contender, what] for what in ("training", "prediction")} for contender in CONTENDERS
    }


def whole_recipe_hours(result: dict[str, Result]) -> float:
    """Steps × time of one, and the validation images of every epoch in batches of 256."""
    training = EPOCHS * (TRAIN_IMAGES // BATCH) * BATCH / result["training"]["images_per_second"]
    return (training + EPOCHS * VAL_IMAGES / result["prediction"]["batch 256"]) / 3600


def rows(results: dict[str, dict[str, Result]]) -> list[dict[str, Any]]:
    """A row a figure; `ratio` is tenfold's rate over the better of Keras's two, above 1 where tenfold is better."""
    figures = {"training, images/s": ("training", "images_per_second")}
    figures |= {f"prediction, batch {n}, images/s": ("prediction", f"batch {n}") for n in BATCHES}
    table = []
    for figure, (what, name) in figures.items():
        values = {contender: results[contender][what][name] for contender in CONTENDERS}
        if what == "prediction":  # tenfold's best, as Keras's best is taken too
            values["tenfold"] = max(values["tenfold"], results["tenfold"][what][f"exported, {name}"])
        ratio = values["tenfold"] / max(values[contender] for contender in CONTENDERS[:2])
        table.append({"figure": figure, **values, "ratio": ratio})
    for what in ("training", "prediction"):
        values = {contender: results[contender][what]["peak_memory_gb"] for contender in CONTENDERS}
        best = min(values[contender] for contender in CONTENDERS[:2])
        table.append({"figure": f"{what}, peak memory, GB", **values, "ratio": best / values["tenfold"]})
    hours = {contender: whole_recipe_hours(results[contender]) for contender in CONTENDERS}
    best = min(hours[contender] for contender in CONTENDERS[:2])
    table.append({"figure": "whole recipe, hours (steps × time of one)", **hours, "ratio": best / hours["tenfold"]})
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the reference recipe here and in Keras.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure_one(*options.one)))
        return
    results = measure_all(options.rounds)
    table = rows(results)
    cores = len(os.sched_getaffinity(0))
    if options.json:
        print(json.dumps({"cores": cores, "machine": platform.machine(), "results": results, "rows": table}))
        return
    print(f"{'':44}" + "".join(f"{contender:>22}" for contender in CONTENDERS) + f"{'ratio':>8}   ({cores} cores)")
    for row in table:
        values = "".join(f"{row[contender]:22,.2f}" for contender in CONTENDERS)
        print(f"{row['figure']:44}{values}{row['ratio']:8.2f}")


if __name__ == "__main__":
    main()
