"""A trained run → a model file, checked before it gets its name: on real test images, or else on synthetic ones.

The file answers with what a single view of the network says, divided by the temperature: normalisation, softmax and
temperature are inside. Quantised, its convolutions multiply int8 numbers: a quarter of the size, faster where the
processor is made for it, and a little less exact.
"""

import copy
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from tenfold.console import log_info
from tenfold.data.dataset import Dataset, Split
from tenfold.data.stored import Images
from tenfold.errors import DataError, ModelError
from tenfold.evaluation.detection import exact_interval
from tenfold.evaluation.metrics import accuracy
from tenfold.serving.graph import separate_pools, to_onnx
from tenfold.serving.model_file import ABOUT, DIGEST, RUN_FILE, ModelMetadata, seal
from tenfold.serving.predictor import Predictor, open_bytes
from tenfold.serving.quantize import quantize
from tenfold.serving.runtime import choose_runtime, installed_runtimes
from tenfold.serving.source import Exported, Source, check, check_distances, measure, read_source, spread, write_into
from tenfold.training.distance import fit_threshold
from tenfold.training.provenance import FoundData
from tenfold.training.run import Run

Int8 = Literal["auto", "on", "off"]
MOST_LOSS = 0.003
"""Share of the test images, at most, that 8 bits may get wrong in addition."""
MOST_MOVED = 0.02
"""By how much the share of test images that the distance rejects may change, where its threshold is that of float32."""
_TIMED_BATCH, _TIMED_ROUNDS = 64, 7
_MOST_COMPARED = 2_000


def export(
    run: Run, out: Path | None = None, int8: Int8 = "off", data: Dataset | Path | FoundData | None = None
) -> Exported:
    """Write the model of a trained run as ONNX, by default to `model.onnx` in the run directory.

    int8: whether to quantise, which needs real images; `auto` times both and keeps the faster one. data: the images to
    check it on, a data set, a folder or what `find_data` found, by
    default those that the run was trained on. Where there are none, synthetic
    ones do, and this is said. Raises `ModelError`, and writes nothing, where the file would answer otherwise than the
    network; `DataError` where `int8` is on and there are no images, and for `data` that does not fit the run;
    `BusyError` for a run in use; `StorageError`.
    """
    return write_into(run, out, RUN_FILE, lambda path: _export(read_source(run, data), path, int8))


def _export(source: Source, out: Path, int8: Int8) -> tuple[bytes, Exported]:
    about = source.about
    network = _to_graph(source)
    plain, speeds = pack(separate_pools(network), about), None
    content, kept = plain, open_bytes(plain, out.name)
    answers = kept.infer(source.images)
    check(answers.probabilities, source.expected)
    check_distances(answers.distance, source.distances)
    if int8 != "off" and _can_quantize(source.found, int8):
        content, speeds = _choose(plain, network, source, int8)
    if content != plain:
        kept = open_bytes(content, out.name)
        answers = kept.infer(source.images)
    measured = measure(source, out, "onnx", kept.runtime, content, *answers)
    quantized, accuracy = kept.about.quantized, kept.about.accuracy
    return content, replace(measured, quantized=quantized, accuracy=accuracy, images_per_second=speeds)


def to_bytes(source: Source) -> bytes:
    """The content of a model file in float32. Raises `ModelError` for a step that has no counterpart in ONNX."""
    return pack(separate_pools(_to_graph(source)), source.about)


def _to_graph(source: Source) -> onnx.ModelProto:
    model, temperature = source.model, source.about.temperature
    return to_onnx(
        model.network, model.normalization, len(model.classes), model.size, temperature, distance=source.distance
    )


def pack(network: onnx.ModelProto, about: ModelMetadata) -> bytes:
    """The bytes of a model file: the graph, what is said about it, and the digest of it all."""
    packed = copy.deepcopy(network)
    packed.producer_name, packed.producer_version = "tenfold", version("tenfold")
    onnx.helper.set_model_props(packed, {ABOUT: json.dumps(about.to_json()), DIGEST: "0" * 64})
    return seal(packed.SerializeToString())


# --- eight bits --------------------------------------------------------------------------------------------------


def _can_quantize(found: FoundData, int8: Int8) -> bool:
    """Whether there are images to take ranges from, and to count on what 8 bits lose; synthetic ones tell neither.

    Raises `DataError` where there are none and 8 bits were asked for.
    """
    if found.dataset is not None:
        return True
    if int8 == "on":
        what = "int8 files need images, to set ranges and to measure what is lost"
        raise DataError(f"not exported: {what}: give a folder of the run's classes with --data ({found.reason})")
    log_info("kept in float32: without real images, 8 bits cannot be set up or measured; give some with --data")
    return False


def _choose(plain: bytes, network: onnx.ModelProto, source: Source, int8: Int8) -> tuple[bytes, dict[str, float]]:
    """The file to keep, float32 or int8, and images per second of both in each runtime; what was measured is said.

    The speed that decides is that of the runtime that is used here; the accuracy, that of the worst, since the file may
    be run by any elsewhere. Raises `ModelError` where 8 bits were asked for and lose too much.
    """
    found, about = source.found, source.about
    assert found.dataset is not None
    dataset = found.dataset
    small = pack(quantize(network, dataset.train.images), replace(about, quantized=True))
    opened = {"float32, onnxruntime": open_bytes(plain, "float32", "onnxruntime")}
    opened |= {f"int8, {runtime}": open_bytes(small, "int8", runtime) for runtime in installed_runtimes()}
    accuracies = {name: _accuracy(classifier, dataset.test) for name, classifier in opened.items()}
    speeds = time_alternately(opened, dataset.test.images)
    distance = _refit(about.distance, source.val, small)
    moved = _moved(opened, dataset.test, about.distance_threshold) if distance is about.distance else 0.0
    for name in opened:
        log_info(f"{name:20} {speeds[name]:8,.0f} images/s {accuracies[name]:8.2%} right")
    before, *after = accuracies.values()
    slow, fast = speeds["float32, onnxruntime"], speeds[f"int8, {choose_runtime(quantized=True)[0]}"]
    loss = before - min(after)
    if loss > MOST_LOSS and int8 == "on":
        raise ModelError(f"not exported: with 8 bits {loss:.2%} of the test images are lost, at most {MOST_LOSS:.1%}")
    if moved > MOST_MOVED and int8 == "on":
        much = f"{moved:.2%} more or fewer of the test images, at most {MOST_MOVED:.1%}"
        raise ModelError(f"not exported: with 8 bits the distance rejects {much}")
    if int8 == "auto" and (loss > MOST_LOSS or moved > MOST_MOVED or fast <= slow):
        return plain, speeds
    # its accuracy is its own, so it is said in the file, which is sealed again; on other images it would mislead
    own = replace(about, quantized=True, accuracy=min(after) if found.own else None, distance=distance)
    return pack(onnx.load_model_from_string(small), own), speeds


def _accuracy(classifier: Predictor, part: Split) -> float:
    return accuracy(classifier.predict(part.images), part.labels)


def _refit(distance: dict[str, Any] | None, val: Images | None, small: bytes) -> dict[str, Any] | None:
    """The note on the distance with the threshold that the int8 file's own distances of validation images give.

    Unchanged where there was none, or where these images are not here.
    """
    if distance is None or distance["threshold"] is None or val is None:
        return distance
    distances = open_bytes(small, "int8").infer(val).distance
    assert distances is not None
    threshold = fit_threshold(distances, distance["most_rejected"])
    rejected = int((distances > threshold).sum())
    interval = list(exact_interval(rejected, len(distances)))
    return distance | {"threshold": threshold, "images": len(val), "rejected": rejected, "interval": interval}


def _moved(opened: Mapping[str, Predictor], part: Split, threshold: float | None) -> float:
    """By how much the share of images that the distance rejects differs from the first model's, at most."""
    if threshold is None:
        return 0.0
    some = part[spread(len(part), _MOST_COMPARED)].images
    distances = [classifier.infer(some).distance for classifier in opened.values()]
    first, *others = [float((one > threshold).mean()) for one in distances if one is not None]
    return max(abs(share - first) for share in others)


def time_alternately(classifiers: Mapping[str, Predictor], images: Images) -> dict[str, float]:
    """Images per second of each classifier, median of rounds in which they take turns."""
    batch = np.array(images[:_TIMED_BATCH])
    seconds: dict[str, list[float]] = {name: [] for name in classifiers}
    for _ in range(_TIMED_ROUNDS):
        for name, classifier in classifiers.items():
            began = time.perf_counter()
            for _ in range(4):
                classifier.predict(batch)
            seconds[name].append(time.perf_counter() - began)
    return {name: 4 * len(batch) / statistics.median(times) for name, times in seconds.items()}
