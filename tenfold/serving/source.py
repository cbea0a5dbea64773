"""What every export format starts from and is checked by: a trained network, images, and its answers to them."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from tenfold.console import log_info
from tenfold.data.dataset import Dataset
from tenfold.data.stored import Images
from tenfold.errors import ModelError, UsageError
from tenfold.files import write_bytes
from tenfold.serving.model_file import ModelMetadata
from tenfold.serving.synthetic import synthetic_images
from tenfold.training.aliases import target_error_in
from tenfold.training.device import select_device
from tenfold.training.distance import FILE, FeatureDistance
from tenfold.training.features import activations
from tenfold.training.holdout import split
from tenfold.training.infer import predict_logits
from tenfold.training.provenance import FoundData, find_data
from tenfold.training.run import Run
from tenfold.training.weights import Model

CHECKED = 500
"""Images, at most, on which a file is compared with the network that it was made from: a second's work for `fast89`."""
LEAST_AGREEMENT, MOST_DIFFERENCE = 0.999, 1e-3
_MOST_OFF = 1e-2
"""Of a distance, which has a standard deviation of about 2; of large ones, as a share."""
_TIE = 1e-5
"""Two classes whose probabilities differ by less are equally good top-1 predictions: the order of sums decides."""


@dataclass(frozen=True)
class Exported:
    """A written file and what was measured of it.

    max_abs_diff: largest difference of a probability from the network's; top1_agreement: share of images with the same
    top-1 prediction; verified_on: which images these two are of, "test images", "other images" (of the run's classes,
    but not those it was scored on) or "synthetic images"; verified_images: how many. accuracy: top-1 accuracy on the
    run's test images, where known; images_per_second: by number format and runtime, where timed.
    distance_max_abs_diff: largest difference of a distance; distance_agreement: share of images that the file and the
    network reject alike by it; None where the file has no distance, or no threshold for it.
    """

    path: str
    format: str
    quantized: bool
    bytes: int
    runtime: str
    max_abs_diff: float
    top1_agreement: float
    verified_on: str
    verified_images: int
    accuracy: float | None
    images_per_second: dict[str, float] | None
    distance_max_abs_diff: float | None = None
    distance_agreement: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, ready for JSON."""
        return asdict(self)


def write_into(run: Run, out: Path | None, name: str, make: Callable[[Path], tuple[bytes, Exported]]) -> Exported:
    """Write what `make` gives to the file `out`; by default it is `name` in the run directory, which vouches for it.

    Raises `UsageError` for any other name in there.
    """
    if out is not None and out.parent.resolve() != run.path.resolve():
        content, exported = make(out)
        write_bytes(out, content)
        return exported
    if out is not None and out.name != name:
        raise UsageError(f"--out {out}: in a run directory this file is called {name}")
    with run.locked():
        content, exported = make(run.path / name)
        run.rewrite_in_manifest({name: content})
    return exported


class Source(NamedTuple):
    """A trained network, what its file will say of it, and what it answers to the images that the file is checked on.

    found: the images that there are of its kind. images: uint8 N×S×S×3; expected: float32 N×K, probabilities at the
    run's temperature, computed in float32. distance: what the run has fitted, if anything; distances: float32 N, of the
    images. val: uint8 N×S×S×3, the run's validation images, where they are here.
    """

    model: Model
    found: FoundData
    about: ModelMetadata
    images: np.ndarray
    expected: np.ndarray
    distance: FeatureDistance | None = None
    distances: np.ndarray | None = None
    val: Images | None = None

    @property
    def verified_on(self) -> str:
        """See `Exported`."""
        if self.found.dataset is None:
            return "synthetic images"
        return "test images" if self.found.own else "other images"


def read_source(run: Run, data: Dataset | Path | FoundData | None = None) -> Source:
    """Load all that a file is made from and checked with, and say where it is not the run's own test images.

    Raises `ModelError`, and `DataError` where `data` does not fit the run.
    """
    device_config = select_device("cpu", torch.float32)
    model, found = run.load_model(device_config), find_data(run, data)
    about, images, distance = describe(run, model), _images_to_check(found, model.size), read_distance(run)
    pixels, distances = torch.from_numpy(images), None
    if distance is None:
        logits = predict_logits(model.network, pixels, model.normalization, device_config).single
    else:
        features, early, logits = activations(model.network, pixels, model.normalization, device_config)
        distances = distance(features.numpy(), None if early is None else early.numpy())
    expected = torch.softmax(logits / about.temperature, dim=1).numpy()
    val = split(found.dataset, run.recipe, run.env["seed"])[1] if found.own and found.dataset else None
    source = Source(model, found, about, images, expected, distance, distances, val.images if val else None)
    if not found.own:
        log_info(f"checked on {source.verified_on}: {found.reason}")
    return source


def read_distance(run: Run) -> FeatureDistance | None:
    """What the run has fitted; None where it has not, as older ones. Raises `ModelError` for damage."""
    if not run.scored or run.digest(FILE) is None:
        return None
    run.verify(FILE)
    return FeatureDistance.from_bytes((run.path / FILE).read_bytes(), str(run.path / FILE))


def _images_to_check(found: FoundData, size: int) -> np.ndarray:
    if found.dataset is None:
        return synthetic_images(size)
    test = found.dataset.test
    return test.images[spread(len(test), CHECKED)]


def describe(run: Run, model: Model) -> ModelMetadata:
    """What the file will say about itself; no path of this machine is in it."""
    results = run.require_scores() if run.scored else {}
    calibration = results.get("calibration") or {}
    env = run.env
    made_with = {"tenfold": version("tenfold"), "recipe": run.recipe.name, "seed": env["seed"]}
    return ModelMetadata(
        classes=model.classes,
        size=model.size,
        resize=run.description.resize,
        temperature=calibration.get("temperature", 1.0),
        threshold=calibration.get("threshold"),
        accuracy=results.get("test_accuracy_single_view"),
        quantized=False,
        made_with=made_with | {"data": Path(env["data"]).name},
        bit_depth=run.description.bit_depth,
        calibration=_noted(calibration),
        distance=_noted_distance(results) if read_distance(run) else None,
    )


def _noted(calibration: dict[str, Any]) -> dict[str, Any] | None:
    """How a file's temperature and threshold were found; None for scores of earlier versions."""
    if "images_needed" not in calibration:
        return None
    names = ("confidence", "images", "images_needed", "reachable_error")
    noted = {name: calibration[name] for name in names if name in calibration}
    return {"target_error": target_error_in(calibration)} | noted


def _noted_distance(results: dict[str, Any]) -> dict[str, Any]:
    """Threshold of a file's distance, and how it was found."""
    names = ("threshold", "most_rejected", "confidence", "images", "images_needed", "rejected", "interval")
    return {name: results["rejection"][name] for name in names}


def check_distances(answers: np.ndarray | None, expected: np.ndarray | None) -> None:
    """Compare distances N of a file with those of its network, if it has any. Raises `ModelError` where they differ."""
    if answers is None or expected is None:
        return
    difference = float((np.abs(answers - expected) / np.maximum(1, np.abs(expected))).max())
    if not difference <= _MOST_OFF:
        raise ModelError(
            f"not exported: the file would differ from the network by {difference:.1g} in a distance "
            f"(at most {_MOST_OFF:g})"
        )


def check(answers: np.ndarray, expected: np.ndarray) -> None:
    """Compare probabilities N×K of a file with those of its network. Raises `ModelError` where they differ."""
    difference, same = float(np.abs(answers - expected).max()), agreement(answers, expected)
    if not (difference <= MOST_DIFFERENCE and same >= LEAST_AGREEMENT):
        raise ModelError(
            f"not exported: the file would differ from the network by {difference:.1g} in a probability "
            f"(at most {MOST_DIFFERENCE:g}) and agree on {same:.2%} of the images (at least {LEAST_AGREEMENT:.1%})"
        )


def _compare_distances(
    answers: np.ndarray | None, expected: np.ndarray | None, threshold: float | None
) -> dict[str, float]:
    """The fields of `Exported` about distances N."""
    if answers is None or expected is None:
        return {}
    found = {"distance_max_abs_diff": float(np.abs(answers - expected).max())}
    if threshold is not None:
        found["distance_agreement"] = float(((answers > threshold) == (expected > threshold)).mean())
    return found


def agreement(answers: np.ndarray, expected: np.ndarray) -> float:
    """Share of images whose top-1 prediction from probabilities N×K is `expected`, or tied with it."""
    guessed = expected[np.arange(len(expected)), answers.argmax(1)]
    return float((guessed >= expected.max(1) - _TIE).mean())


def spread(count: int, most: int) -> np.ndarray:
    """Numbers of at most `most` of `count` images, evenly spread."""
    return np.linspace(0, count - 1, min(most, count)).astype(int)


def verified(
    source: Source,
    out: Path,
    file_format: str,
    runtime: str,
    content: bytes,
    predict: Callable[[bytes, np.ndarray], np.ndarray],
) -> tuple[bytes, Exported]:
    """Compare what a file answers (`predict`, uint8 N×S×S×3 to probabilities N×K) with its network.

    Raises `ModelError` where they differ.
    """
    answers = predict(content, source.images)
    check(answers, source.expected)
    return content, measure(source, out, file_format, runtime, content, answers)


def measure(
    source: Source,
    out: Path,
    file_format: str,
    runtime: str,
    content: bytes,
    answers: np.ndarray,
    distances: np.ndarray | None = None,
) -> Exported:
    """What is reported of a float32 file that gave these answers, probabilities N×K and distances N, to the images."""
    return Exported(
        **_compare_distances(distances, source.distances, source.about.distance_threshold),
        path=str(out),
        format=file_format,
        quantized=False,
        bytes=len(content),
        runtime=runtime,
        max_abs_diff=float(np.abs(answers - source.expected).max()),
        top1_agreement=agreement(answers, source.expected),
        verified_on=source.verified_on,
        verified_images=len(source.images),
        accuracy=source.about.accuracy,
        images_per_second=None,
    )
