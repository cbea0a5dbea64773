"""Audit of a run's test accuracy: train–test duplicates, corruptions, label issues, saliency maps, seed variance.

Each part is kept in `audit/` of the run directory and used again as long as weights and data are the same, so an
interrupted audit resumes.
"""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from tenfold.console import log_info, progress
from tenfold.data import DATASETS
from tenfold.data.dataset import Dataset, Split
from tenfold.data.stored import hash_pixels
from tenfold.errors import DataError, DivergedError, ModelError, UsageError
from tenfold.evaluation import labels as label_errors
from tenfold.evaluation.corrupt import CORRUPTIONS, SEVERITIES, corrupt
from tenfold.evaluation.duplicates import embed, find_duplicates
from tenfold.evaluation.evaluate import Evaluation, require_own
from tenfold.evaluation.explain import explain, overlay
from tenfold.evaluation.findings import (
    ISSUES,
    Audit,
    AuditParts,
    Corruptions,
    Duplicates,
    LabelIssues,
    Part,
    SaliencyMap,
    SaliencyMaps,
    SplitIssues,
)
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
IMAGES_A_CELL = 1000
EXPLAINED = 6
"""How many of the most confident mistakes are explained in the report."""
_PARTS: dict[str, Any] = {
    "duplicates": Duplicates,
    "corruptions": Corruptions,
    "labels": LabelIssues,
    "saliency": SaliencyMaps,
}
_VERSION = 2

P = TypeVar("P", bound=Part)


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
    hashed = hash_pixels(part.images)
    hashed.update(np.ascontiguousarray(part.labels).data)
    return hashed.hexdigest()


def run_audit(subject: Subject, device_config: DeviceConfig, full: bool = False) -> tuple[Audit, bool]:
    """All parts, and whether one of them is new. The caller owns the run's lock.

    full: corrupt all test images, not the first thousand. Raises `ModelError`, `StorageError`, and `UsageError` for
    other data than the run's own.
    """
    require_own(subject.run, subject.evaluation)
    model = subject.run.load_model(device_config)
    images = len(subject.dataset.test) if full else min(IMAGES_A_CELL, len(subject.dataset.test))
    kept = _usable(subject, images)
    audit = Audit(
        duplicates=kept.duplicates or _keep(subject, "duplicates", _duplicates(subject, model, device_config)),
        corruptions=kept.corruptions
        or _keep(subject, "corruptions", _corruptions(subject, model, device_config, images)),
        labels=kept.labels or _keep(subject, "labels", _labels(subject, device_config)),
        saliency=kept.saliency or _keep(subject, "saliency", _saliency(subject, model)),
        seed_variance=kept.seed_variance,
    )
    return audit, any(getattr(kept, name) is None for name in _PARTS)


def _usable(subject: Subject, images: int) -> AuditParts:
    """The kept parts, without corruptions of fewer images; the list of label issues is written where it is missing."""
    kept = read_audit(subject) or AuditParts(seed_variance=seed_variance(subject.run))
    if kept.labels and not _is_sound(subject.run, ISSUES):
        _write_issues(subject, kept.labels)
    if kept.corruptions and kept.corruptions.images < images:
        return replace(kept, corruptions=None)
    return kept


def read_audit(subject: Subject) -> AuditParts | None:
    """The parts that the run keeps of this very model and data, with the seed variance; None without an audit."""
    names = [name for name in _PARTS if path_of(subject.run, name).is_file()]
    if not names:
        return None
    found = {name: part for name in names if (part := _read(subject, name))}
    return AuditParts(**found, seed_variance=seed_variance(subject.run)) if found else None


def changed(run: Run) -> float:
    """When a part was written last, in seconds since 1970; 0 where there is none."""
    paths = [path_of(run, name) for name in _PARTS]
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


def _read(subject: Subject, name: str) -> Any:
    """The kept part of this model and data; None where it is of others, or damaged: then it is computed again."""
    run = subject.run
    try:
        if _is_sound(run, _file_of(run, name)):
            kept = _with_current_keys(parse_object(path_of(run, name).read_bytes()))
            return _PARTS[name].from_dict(kept["value"]) if kept["key"] == subject.key else None
    except (ValueError, KeyError, TypeError):
        pass
    log_info(f"{path_of(run, name)} is damaged: tenfold audit {run.path} writes it again")
    return None


def _is_sound(run: Run, name: str) -> bool:
    try:
        run.verify(name)
    except ModelError:
        return False
    return True


def _keep(subject: Subject, name: str, part: P) -> P:
    text = json.dumps({"key": subject.key, "value": part.to_dict()})
    subject.run.rewrite_in_manifest({f"{FOLDER}/{name}.json": f"{text}\n"})
    return part


# --- duplicates ---------------------------------------------------------------------------------------------------


def _published_share(name: str) -> float | None:
    """Share of test images with copies, within the test set too, as published; None for other data."""
    return DATASETS.find(name).published_duplicates if name in DATASETS else None


def _duplicates(subject: Subject, model: Model, device_config: DeviceConfig) -> Duplicates:
    dataset = subject.dataset
    with progress("searching duplicates", len(dataset.test) + len(dataset.train)) as bar:
        features = [embed(model, to_tensors(part)[0], device_config, bar) for part in (dataset.test, dataset.train)]
        pairs = find_duplicates(dataset.test.images, dataset.train.images, *features)
    logits, truth = subject.evaluation.logits, subject.evaluation.labels
    duplicated = np.isin(np.arange(len(truth)), [pair.test for pair in pairs])
    differ = [pair for pair in pairs if dataset.test.labels[pair.test] != dataset.train.labels[pair.train]]
    return Duplicates(
        images=len(truth),
        count=len(pairs),
        share=len(pairs) / len(truth),
        in_place=sum(pair.kind == "duplicate" for pair in pairs),
        labels_differ=len(differ),
        published_share=_published_share(dataset.name),
        accuracy=accuracy(logits, truth),
        accuracy_without=accuracy(logits[~duplicated], truth[~duplicated]) if not duplicated.all() else None,
        accuracy_on_duplicates=accuracy(logits[duplicated], truth[duplicated]) if duplicated.any() else None,
        pairs=tuple(pairs),
    )


# --- corruptions -------------------------------------------------------------------------------------------------


def _corruptions(subject: Subject, model: Model, device_config: DeviceConfig, images: int) -> Corruptions:
    test = subject.dataset.test[slice(images)]
    truth = test.labels.astype(np.int64)
    table: dict[str, list[float]] = {}
    with progress("corruptions", len(CORRUPTIONS) * len(SEVERITIES)) as bar:
        for name in CORRUPTIONS:
            table[name] = []
            for severity in SEVERITIES:
                seen = torch.from_numpy(corrupt(test.images, name, severity))
                logits = predict_logits(model.network, seen, model.normalization, device_config).single.numpy()
                table[name].append(accuracy(logits, truth))
                bar(1, note=f"{name} {severity}")
    cells = np.array(list(table.values()))
    return Corruptions(
        images=images,
        clean_accuracy=accuracy(subject.evaluation.test.single[:images], truth),
        mean_accuracy=float(cells.mean()),
        by_severity=tuple(cells.mean(axis=0).tolist()),
        accuracy={name: tuple(shares) for name, shares in table.items()},
    )


# --- labels ------------------------------------------------------------------------------------------------------


def _labels(subject: Subject, device_config: DeviceConfig) -> LabelIssues:
    dataset, missing = subject.dataset, []
    found: dict[str, SplitIssues] = {}
    predictors: dict[str, Callable[[], np.ndarray]] = {
        "train": lambda: _predict_training_labels(subject, device_config),
        "test": lambda: probabilities(subject.evaluation.logits),
    }
    for name, split in _splits(dataset):
        try:
            found[name] = _issues(split, predictors[name]())
        except (DataError, DivergedError, UsageError) as error:
            missing.append(f"{name} labels were not checked: {error}")
    part = LabelIssues(found.get("train"), found.get("test"), "; ".join(missing) or None)
    _write_issues(subject, part)
    return part


def _splits(dataset: Dataset) -> tuple[tuple[str, Split], ...]:
    return ("train", dataset.train), ("test", dataset.test)


def _issues(split: Split, predicted: np.ndarray) -> SplitIssues:
    issues = label_errors.find_issues(split.labels, predicted)
    agreement = accuracy(predicted, split.labels.astype(np.int64))
    return SplitIssues(len(split), agreement, len(issues), tuple(issues))


def _predict_training_labels(subject: Subject, device_config: DeviceConfig) -> np.ndarray:
    dataset = subject.dataset
    recipe = label_errors.recipe_for(dataset.train, subject.run.recipe)
    with progress("checking labels", 100) as bar:
        return label_errors.predict_out_of_fold(
            dataset.train, len(dataset.classes), device_config, recipe, lambda share: bar(100 * share)
        )


def _row(name: str, split: Split, issue: label_errors.Issue, classes: Sequence[str]) -> list[Any]:
    path = "" if split.names is None else split.names[issue.index]
    shares = [f"{share:.6g}" for share in (issue.given_probability, issue.suspected_probability)]
    return [name, issue.index, path, classes[issue.given], classes[issue.suspected], *shares]


def _write_issues(subject: Subject, part: LabelIssues) -> None:
    """Write label_issues.csv: the label issues of a part, one per row."""
    run, dataset = subject.run, subject.dataset
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("split", "index", "path", "given", "suspected", "given_probability", "suspected_probability"))
    for (name, split), found in zip(_splits(dataset), (part.train, part.test), strict=True):
        table.writerows(_row(name, split, issue, dataset.classes) for issue in (found.issues if found else ()))
    run.rewrite_in_manifest({ISSUES: text.getvalue()})


# --- saliency ----------------------------------------------------------------------------------------------


def _saliency(subject: Subject, model: Model) -> SaliencyMaps:
    """Saliency and occlusion of the most confident mistakes, overlaid on them."""
    shares = probabilities(subject.evaluation.logits)
    wrong = np.flatnonzero(shares.argmax(axis=1) != subject.evaluation.labels)
    chosen = wrong[np.argsort(-shares[wrong].max(axis=1), kind="stable")][:EXPLAINED]
    images, answers, found = subject.dataset.test.images[chosen], shares[chosen].argmax(axis=1).tolist(), []
    with progress("explaining mistakes", len(chosen)) as bar:
        explanations = explain(model, images, labels=answers)
        for index, image, explained in zip(chosen.tolist(), images, explanations, strict=True):
            drawn = tuple(overlay(image, heat).tobytes() for heat in (explained.saliency, explained.occlusion))
            label, probability = explained.label, float(explained.probabilities[explained.label])
            found.append(SaliencyMap(index, explained.agreement, drawn, label, probability))
            bar(1)
    return SaliencyMaps(tuple(found))
