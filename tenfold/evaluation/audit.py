"""Audit of a run's test accuracy: train–test duplicates, corruptions, label issues, saliency maps, seed variance.

Each part is kept in `audit/` of the run directory and used again as long as weights and data are the same, so an
interrupted audit resumes. Parts are plain JSON values; where a part is not available, `missing` says why.
"""

import base64
import csv
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tenfold.console import log_info, progress
from tenfold.data import DATASETS
from tenfold.data.dataset import Dataset, Split
from tenfold.errors import DataError, DivergedError, ModelError, UsageError
from tenfold.evaluation import labels as label_errors
from tenfold.evaluation.corrupt import CORRUPTIONS, SEVERITIES, corrupt
from tenfold.evaluation.duplicates import embed, find_duplicates
from tenfold.evaluation.evaluate import Evaluation, require_own
from tenfold.evaluation.explain import explain, overlay
from tenfold.evaluation.metrics import accuracy, probabilities
from tenfold.evaluation.seed_variance import seed_variance
from tenfold.files import parse_object
from tenfold.training.device import DeviceConfig
from tenfold.training.infer import predict_logits
from tenfold.training.run import Run
from tenfold.training.trainer import to_tensors
from tenfold.training.weights import DESCRIPTION, WEIGHTS, Model

FOLDER = "audit"
_OLD_FOLDER = "honesty"
_OLD_FILES = {"saliency": "maps"}
_OLD_KEYS = {"accuracy_on_copies": "accuracy_on_duplicates", "judges_accuracy": "agreement", "pictures": "overlays"}
"""Names in runs of earlier versions, which stay readable."""
ISSUES = "label_issues.csv"
IMAGES_A_CELL = 1000
EXPLAINED = 6
"""How many of the most confident mistakes are explained in the report."""
_NAMES = ("duplicates", "corruptions", "labels", "saliency")
_VERSION = 2

Part = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """What is audited: a scored run and its own data."""

    run: Run
    dataset: Dataset
    evaluation: Evaluation

    @cached_property
    def key(self) -> dict[str, Any]:
        """What every part depends on."""
        parts = (self.dataset.train, self.dataset.test)
        digests = {name: self.run.digest(name) for name in (WEIGHTS, DESCRIPTION)}
        return {"version": _VERSION, **digests, "data": [_digest(part) for part in parts]}


def _digest(part: Split) -> str:
    hashed = hashlib.sha256(np.ascontiguousarray(part.images).data)
    hashed.update(np.ascontiguousarray(part.labels).data)
    return hashed.hexdigest()


def run_audit(subject: Subject, device_config: DeviceConfig, full: bool = False) -> tuple[dict[str, Part], bool]:
    """All parts, and whether one of them is new. The caller owns the run's lock.

    full: corrupt all test images, not the first thousand. Raises `ModelError`, `StorageError`, and `UsageError` for
    other data than the run's own.
    """
    require_own(subject.run, subject.evaluation)
    kept = read_panel(subject) or {}
    model = subject.run.load_model(device_config)
    images = len(subject.dataset.test) if full else min(IMAGES_A_CELL, len(subject.dataset.test))
    if "labels" in kept and not _is_sound(subject.run, ISSUES):
        _write_issues(subject, kept["labels"])
    if kept.get("corruptions", {}).get("images", 0) < images:
        kept.pop("corruptions", None)
    makers: dict[str, Callable[[], Part]] = {
        "duplicates": lambda: _duplicates(subject, model, device_config),
        "corruptions": lambda: _corruptions(subject, model, device_config, images),
        "labels": lambda: _labels(subject, device_config),
        "saliency": lambda: _saliency(subject, model),
    }
    missing = [name for name in _NAMES if name not in kept]
    for name in missing:
        kept[name] = makers[name]()
        _keep(subject, name, kept[name])
    return {name: kept[name] for name in _NAMES} | {"seed_variance": seed_variance(subject.run)}, bool(missing)


def read_panel(subject: Subject) -> dict[str, Part] | None:
    """The parts that the run keeps of this very model and data, with the seed variance; None without an audit."""
    names = [name for name in _NAMES if path_of(subject.run, name).is_file()]
    if not names:
        return None
    key, found = subject.key, {}
    for name in names:
        kept = _read(subject.run, name)
        if kept.get("key") == key:
            found[name] = kept["value"]
    return found | {"seed_variance": seed_variance(subject.run)} if found else None


def changed(run: Run) -> float:
    """When a part was written last, in seconds since 1970; 0 where there is none."""
    paths = [path_of(run, name) for name in _NAMES]
    return max((path.stat().st_mtime for path in paths if path.is_file()), default=0.0)


def path_of(run: Run, name: str) -> Path:
    """Where the run keeps a part; in a run of an earlier version, perhaps under the old name."""
    return run.path / _file_of(run, name)


def _file_of(run: Run, name: str) -> str:
    current, old = f"{FOLDER}/{name}.json", f"{_OLD_FOLDER}/{_OLD_FILES.get(name, name)}.json"
    return old if (run.path / old).is_file() and not (run.path / current).is_file() else current


def _with_current_keys(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_current_keys(item) for item in value]
    if isinstance(value, dict):
        return {_OLD_KEYS.get(key, key): _with_current_keys(item) for key, item in value.items()}
    return value


def _read(run: Run, name: str) -> dict[str, Any]:
    """What is kept, or nothing where it is damaged: then it is computed again."""
    try:
        if _is_sound(run, _file_of(run, name)):
            return _with_current_keys(parse_object(path_of(run, name).read_bytes()))
    except ValueError:
        pass
    log_info(f"{path_of(run, name)} is damaged: tenfold audit {run.path} writes it again")
    return {}


def _is_sound(run: Run, name: str) -> bool:
    try:
        run.verify(name)
    except ModelError:
        return False
    return True


def _keep(subject: Subject, name: str, value: Part) -> None:
    subject.run.rewrite_in_manifest({f"{FOLDER}/{name}.json": json.dumps({"key": subject.key, "value": value}) + "\n"})


# --- duplicates ---------------------------------------------------------------------------------------------------


def _published_share(name: str) -> float | None:
    """Share of test images with copies, within the test set too, as published; None for other data."""
    return DATASETS.find(name).published_duplicates if name in DATASETS else None


def _duplicates(subject: Subject, model: Model, device_config: DeviceConfig) -> Part:
    dataset = subject.dataset
    with progress("searching duplicates", len(dataset.test) + len(dataset.train)) as bar:
        features = [embed(model, to_tensors(part)[0], device_config, bar) for part in (dataset.test, dataset.train)]
        pairs = find_duplicates(dataset.test.images, dataset.train.images, *features)
    logits, truth = subject.evaluation.logits, subject.evaluation.labels
    duplicated = np.isin(np.arange(len(truth)), [pair.test for pair in pairs])
    differ = [pair for pair in pairs if dataset.test.labels[pair.test] != dataset.train.labels[pair.train]]
    return {
        "images": len(truth),
        "count": len(pairs),
        "share": len(pairs) / len(truth),
        "in_place": sum(pair.kind == "duplicate" for pair in pairs),
        "labels_differ": len(differ),
        "published_share": _published_share(dataset.name),
        "accuracy": accuracy(logits, truth),
        "accuracy_without": accuracy(logits[~duplicated], truth[~duplicated]) if not duplicated.all() else None,
        "accuracy_on_duplicates": accuracy(logits[duplicated], truth[duplicated]) if duplicated.any() else None,
        "pairs": [asdict(pair) for pair in pairs],
    }


# --- corruptions -------------------------------------------------------------------------------------------------


def _corruptions(subject: Subject, model: Model, device_config: DeviceConfig, images: int) -> Part:
    test = subject.dataset.test[slice(images)]
    truth = test.labels.astype(np.int64)
    table: dict[str, list[float]] = {}
    with progress("corruptions", len(CORRUPTIONS) * len(SEVERITIES)) as bar:
        for name in CORRUPTIONS:
            table[name] = []
            for severity in SEVERITIES:
                seen = torch.from_numpy(corrupt(np.asarray(test.images), name, severity))
                logits = predict_logits(model.network, seen, model.normalization, device_config).single.numpy()
                table[name].append(accuracy(logits, truth))
                bar(1, note=f"{name} {severity}")
    cells = np.array(list(table.values()))
    return {
        "images": images,
        "clean_accuracy": accuracy(subject.evaluation.test.single[:images], truth),
        "mean_accuracy": float(cells.mean()),
        "by_severity": cells.mean(axis=0).tolist(),
        "accuracy": table,
    }


# --- labels ------------------------------------------------------------------------------------------------------


def _labels(subject: Subject, device_config: DeviceConfig) -> Part:
    dataset, missing = subject.dataset, []
    part: Part = {}
    predictors: dict[str, Callable[[], np.ndarray]] = {
        "train": lambda: _predict_training_labels(dataset, device_config),
        "test": lambda: probabilities(subject.evaluation.logits),
    }
    for name, split in _splits(dataset):
        try:
            part[name] = _issues(split, predictors[name]())
        except (DataError, DivergedError, UsageError) as error:
            missing.append(f"{name} labels were not checked: {error}")
    part["missing"] = "; ".join(missing) or None
    _write_issues(subject, part)
    return part


def _splits(dataset: Dataset) -> tuple[tuple[str, Split], ...]:
    return ("train", dataset.train), ("test", dataset.test)


def _issues(split: Split, predicted: np.ndarray) -> Part:
    issues = label_errors.find_issues(split.labels, predicted)
    return {
        "images": len(split),
        "agreement": accuracy(predicted, split.labels.astype(np.int64)),
        "suspected": len(issues),
        "issues": [asdict(issue) for issue in issues],
    }


def _predict_training_labels(dataset: Dataset, device_config: DeviceConfig) -> np.ndarray:
    recipe = label_errors.recipe_for(dataset.train)
    with progress("checking labels", 100) as bar:
        return label_errors.predict_out_of_fold(
            dataset.train, len(dataset.classes), device_config, recipe, lambda share: bar(100 * share)
        )


def _row(name: str, split: Split, issue: Part, classes: Sequence[str]) -> list[Any]:
    path = "" if split.names is None else split.names[issue["index"]]
    shares = [f"{issue[key]:.6g}" for key in ("given_probability", "suspected_probability")]
    return [name, issue["index"], path, classes[issue["given"]], classes[issue["suspected"]], *shares]


def _write_issues(subject: Subject, part: Part) -> None:
    """Write label_issues.csv: the label issues of a part, one per row."""
    run, dataset = subject.run, subject.dataset
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("split", "index", "path", "given", "suspected", "given_probability", "suspected_probability"))
    for name, split in _splits(dataset):
        table.writerows(_row(name, split, issue, dataset.classes) for issue in part.get(name, {"issues": []})["issues"])
    run.rewrite_in_manifest({ISSUES: text.getvalue()})


# --- saliency ----------------------------------------------------------------------------------------------


def _saliency(subject: Subject, model: Model) -> Part:
    """Saliency and occlusion of the most confident mistakes, overlaid on them: bytes of uint8 S×S×3 in base64."""
    shares = probabilities(subject.evaluation.logits)
    wrong = np.flatnonzero(shares.argmax(axis=1) != subject.evaluation.labels)
    chosen = wrong[np.argsort(-shares[wrong].max(axis=1), kind="stable")][:EXPLAINED]
    images, answers, found = subject.dataset.test.images[chosen], shares[chosen].argmax(axis=1).tolist(), []
    with progress("explaining mistakes", len(chosen)) as bar:
        explanations = explain(model, images, labels=answers)
        for index, image, explained in zip(chosen.tolist(), images, explanations, strict=True):
            drawn = [overlay(image, heat) for heat in (explained.saliency, explained.occlusion)]
            overlays = [base64.b64encode(pixels.tobytes()).decode() for pixels in drawn]
            found.append({"index": index, "agreement": explained.agreement, "overlays": overlays})
            found[-1] |= {"label": explained.label, "probability": float(explained.probabilities[explained.label])}
            bar(1)
    return {"images": found}


# --- as text ----------------------------------------------------------------------------------------------------


def format_audit(panel: dict[str, Part]) -> list[str]:
    """The findings, a sentence per part."""
    return [
        _format_duplicates(panel["duplicates"]),
        _format_corruptions(panel["corruptions"]),
        *_format_labels(panel["labels"]),
        _format_seed_variance(panel["seed_variance"]),
    ]


def _format_duplicates(part: Part) -> str:
    if not part["count"]:
        return f"no test image of {part['images']:,} has a duplicate among the training images"
    found = f"{part['count']:,} of {part['images']:,} test images ({part['share']:.2%}) duplicate a training image"
    if part["accuracy_without"] is None:
        return found
    return f"{found}; accuracy {part['accuracy']:.2%} with duplicates, {part['accuracy_without']:.2%} without"


def _format_corruptions(part: Part) -> str:
    return (
        f"mean accuracy over {len(part['accuracy'])} corruptions at 5 severities: {part['mean_accuracy']:.2%}, against "
        f"{part['clean_accuracy']:.2%} on the same {part['images']:,} original images (without TTA); the 95 % margin "
        f"of one corruption and severity is ±{cell_margin(part['images']):.1%}"
    )


def cell_margin(images: int) -> float:
    """Half width of the 95 % interval of an accuracy on so many images, at its largest (accuracy 0.5)."""
    return float(1.96 * (0.25 / images) ** 0.5)


def _format_labels(part: Part) -> list[str]:
    found = [
        f"{part[name]['suspected']:,} of {part[name]['images']:,} {name} labels look wrong: {ISSUES}"
        for name in ("train", "test")
        if name in part
    ]
    return [*found, part["missing"]] if part["missing"] else found


def _format_seed_variance(part: Part) -> str:
    if part["missing"]:
        return f"seed variance: {part['missing']}"
    return (
        f"test accuracy over the {part['n']} runs of its bench: {part['mean']:.2%} ± {part['std']:.2%} (standard "
        f"deviation); a difference of two single runs is significant from {part['real_difference']:.2%} on"
    )
