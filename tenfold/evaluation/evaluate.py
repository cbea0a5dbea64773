"""A run and data → scores, written into the run directory as `results.json` and `predictions.csv`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tenfold.console import log_info, plural
from tenfold.data.dataset import AppliedCorrections, Dataset
from tenfold.errors import DataError, ModelError, UsageError
from tenfold.evaluation import metrics
from tenfold.evaluation.calibration import calibrate, calibration_in
from tenfold.evaluation.outputs import LogitsCache, kept_outputs, load_or_compute, to_file
from tenfold.evaluation.scores import Scores
from tenfold.files import format_object
from tenfold.training.device import DeviceConfig
from tenfold.training.fingerprint import is_own
from tenfold.training.holdout import split
from tenfold.training.provenance import FoundData, as_own, find_data, is_read_alike, reload_dataset
from tenfold.training.run import Run, device_of
from tenfold.training.target_error import check_target_error, target_error_of
from tenfold.training.weights import Model

if TYPE_CHECKING:
    import pandas as pd


_HAND_OVER = "tenfold.Run.open(path).evaluate(dataset)"


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Scores and logits of a run on a test set, and on its validation images where it has some.

    scores: what goes to `results.json`. names: the test images' files, below the folder that they are from.
    own: whether they are the test images of the data that the run was trained on; only then the run may keep them. In a
    notebook it shows the confusion matrix.
    """

    test: LogitsCache
    val: LogitsCache | None
    classes: tuple[str, ...]
    scores: Scores
    names: np.ndarray | None = None
    own: bool = True

    def __repr__(self) -> str:
        found = f"test_accuracy={self.scores.test_accuracy!r}, ece={self.scores.ece:.4f}"
        return f"Evaluation({found}, {plural(len(self.labels), 'test image')} of {plural(len(self.classes), 'class')})"

    def _repr_png_(self) -> bytes:
        from tenfold.evaluation import plots

        title = f"Test accuracy {self.scores.test_accuracy:.2%}"
        return plots.to_png(plots.confusion(self.confusion_matrix(), self.classes, title), dpi=100)

    @property
    def logits(self) -> np.ndarray:
        """float32 N×K, test-time views averaged."""
        return self.test.averaged

    @property
    def labels(self) -> np.ndarray:
        """int64 N."""
        return self.test.labels

    def confusion_matrix(self) -> np.ndarray:
        """int64 K×K, true classes in rows."""
        return metrics.confusion_matrix(self.labels, self.logits.argmax(1), len(self.classes))

    def per_class(self) -> "pd.DataFrame":
        """Precision, recall and F1 of each class (see `metrics.per_class`)."""
        return metrics.per_class(self.labels, self.logits.argmax(1), self.classes)

    def absent_classes(self) -> list[str]:
        """Names of the classes that no test image is of: there is nothing to score them on."""
        counts = np.bincount(self.labels, minlength=len(self.classes))
        return [name for name, count in zip(self.classes, counts, strict=True) if count == 0]

    def predictions(self) -> "pd.DataFrame":
        """One row an image, test-time views averaged (see `metrics.predictions`)."""
        frame = metrics.predictions(self.logits, self.labels, self.classes)
        if self.names is not None:
            frame.insert(1, "path", self.names)
        return frame

    def to_dict(self) -> dict[str, Any]:
        """The scores and `details`, ready for JSON."""
        return self.scores.to_dict() | self.details()

    def details(self) -> dict[str, Any]:
        """What `tenfold evaluate --json` adds to the scores: per class, per pair of classes, per confidence."""
        table = metrics.reliability(self.logits, self.labels)
        return {
            "per_class": metrics.to_records(self.per_class()),
            "absent_classes": self.absent_classes(),
            "confusion_matrix": self.confusion_matrix().tolist(),
            "reliability": {name: values.tolist() for name, values in table._asdict().items()},
        }


def evaluate(
    run: Run,
    data: Dataset | FoundData | None = None,
    device_config: DeviceConfig | None = None,
    *,
    target_error: float | None = None,
) -> Evaluation:
    """Score a trained run on the test images of `data`, without writing anything.

    data: what `check_data` said of a data set, or one that it is still to check; by default what the run was trained
    on. Where that changed or is not here, the logits and labels that the run directory keeps are enough, and this is
    logged. With data other than the run's own (see `Evaluation.own`), the
    calibration is the run's, not theirs. target_error: the share of wrong answers that a new threshold is to keep, from
    0.001 to 0.5; without it, a scored run keeps its calibration, on any device, since exported files hold it. Raises
    `ModelError` for a run that is unfinished or damaged, `DataError` for data of other classes or without labelled test
    images, and as `reload_dataset` does, `UsageError` for another target error, or one with other data.
    """
    target_error, device_config = check_target_error(target_error), device_config or device_of(run)
    if data is None:
        data = find_data(run)
        by_logits = not data.own and target_error is None  # a new threshold takes the validation images
        kept = _from_kept(run, device_config) if by_logits else None
        if kept:
            log_info(f"scored from the logits and labels in {run.path}, not from images: {data.reason}")
            return kept
        if not data.own:
            data = FoundData(reload_dataset(run, in_python=_HAND_OVER), True)
    found = data if isinstance(data, FoundData) else check_data(run, data)
    assert found.dataset is not None
    return _score(run, found.dataset, found.own, device_config, target_error)


def _score(
    run: Run, dataset: Dataset, own: bool, device_config: DeviceConfig, target_error: float | None
) -> Evaluation:
    model = run.load_model(device_config)
    _require_fitting(run, model, dataset)
    if target_error is not None and not own:
        about = f"the target error is about the validation images of {run.path}"
        raise UsageError(f"{about}: leave it out with other data ({dataset.name})")
    test = load_or_compute(run, model, dataset.test, device_config, "test")
    held_out = split(dataset, run.recipe, run.env["seed"])[1] if own else None
    val = load_or_compute(run, model, held_out, device_config, "val") if held_out else None
    keeps = run.scored and (target_error is None or not own)
    calibration = calibration_in(run.read_json("results.json")) if keeps else None
    if val and calibration is None:
        calibration = calibrate(val.single, val.labels, target_error or target_error_of(run))
    scores = Scores.compute(
        run,
        model,
        test,
        val_accuracy=metrics.accuracy(val.averaged, val.labels) if val else None,
        val_accuracy_single_view=metrics.accuracy(val.single, val.labels) if val else None,
        calibration=calibration.measure(test.single, test.labels) if calibration else None,
        skipped_images=dataset.skipped if dataset.origin else None,
        corrections=dataset.corrections,
    )
    return Evaluation(test, val, model.classes, scores, dataset.test.names, own)


def _from_kept(run: Run, device_config: DeviceConfig) -> Evaluation | None:
    """What the run's own files say of its test images; None where they are not all there, or not of these weights.

    The validation images' score and the calibration are those of results.json. Raises `ModelError` for damage.
    """
    needed = ("results.json", "predictions.csv")
    if not all(run.digest(name) for name in needed):
        return None
    run.verify(*needed)
    model, frame = run.load_model(device_config), read_predictions(run)
    labels = class_numbers(frame["true"], model.classes)
    test = None if labels is None else kept_outputs(run, "test", labels)
    if test is None:
        return None
    results = run.read_json("results.json")
    more = {name: results.get(name) for name in ("val_accuracy", "val_accuracy_single_view", "skipped_images")}
    applied = AppliedCorrections.from_dict(results["corrections"]) if "corrections" in results else None
    scores = Scores.compute(run, model, test, calibration=calibration_in(results), corrections=applied, **more)
    names = frame["path"].to_numpy(object) if "path" in frame else None
    return Evaluation(test, None, model.classes, scores, names)


def read_predictions(run: Run) -> "pd.DataFrame":
    """predictions.csv as it was written: class names and paths stay text, "NA" and "" too."""
    import pandas as pd

    types = {"true": str, "predicted": str, "path": str}
    return pd.read_csv(run.path / "predictions.csv", dtype=types, keep_default_na=False)


def read_per_class(run: Run) -> "pd.DataFrame":
    """`metrics.per_class` of predictions.csv. Raises `ModelError` where it names classes that the model lacks."""
    frame, classes = read_predictions(run), run.description.classes
    labels, predicted = (class_numbers(frame[column], classes) for column in ("true", "predicted"))
    if labels is None or predicted is None:
        raise ModelError(
            f"{run.path / 'predictions.csv'} names classes that the model does not have: evaluate it again"
        )
    return metrics.per_class(labels, predicted, classes)


def class_numbers(names: "pd.Series[str]", classes: tuple[str, ...]) -> np.ndarray | None:
    """int64 N, the number of each name among `classes`; None where one is not among them, or a name is not unique."""
    numbers = {name: number for number, name in enumerate(classes)}
    if len(numbers) < len(classes) or not set(names) <= numbers.keys():
        return None
    return names.map(numbers).to_numpy(np.int64)


def check_data(run: Run, dataset: Dataset) -> FoundData:
    """Say whether the run was trained on `dataset`. Raises `DataError` for its own folder read otherwise.

    Among test images that another seed draws are training images, so their scores would be too good.
    """
    dataset = as_own(run, dataset)
    own = is_own(run.env, dataset)
    if own and dataset.origin and not is_read_alike(run, dataset):
        how = "with another seed, resize mode or bit depth"
        raise DataError(
            f"{dataset.name} was read otherwise than for {run.path}, {how}: tenfold.Run.open(path).evaluate() reads it"
        )
    return FoundData(dataset, own)


def require_own(run: Run, evaluation: Evaluation) -> None:
    """Raise `UsageError` for scores on other data than the run's own: they are not to replace its own."""
    if not evaluation.own:
        raise UsageError(f"these scores are of other data than {run.path} was trained on: the run keeps only its own")


def _require_fitting(run: Run, model: Model, dataset: Dataset) -> None:
    if dataset.classes != model.classes:
        unknown = tuple(name for name in dataset.classes if name not in model.classes)
        more = f"; not among them: {_named(unknown)}" if unknown else ""
        known = _named(model.classes)
        raise DataError(f"{dataset.name} has other classes than {run.path} was trained on: {known}{more}")
    if len(dataset.test) == 0:
        raise DataError(f"{dataset.name} has no test images with labels")
    size = dataset.test.images.shape[1]
    if size != model.size:  # the network would take them, and answer worse
        raise DataError(f"the images of {dataset.name} are {size} pixels a side, those of {run.path} {model.size}")


def _named(classes: tuple[str, ...], most: int = 20) -> str:
    more = f" and {len(classes) - most:,} more" if len(classes) > most else ""
    return ", ".join(metrics.shown(name) for name in classes[:most]) + more


def write_scores(run: Run, evaluation: Evaluation, more: dict[str, Any]) -> dict[str, Any]:
    """Write results.json (the scores and `more`), predictions.csv and the logits; seal the run, return the results.

    The caller owns the run's lock. Raises `UsageError` for scores of other data.
    """
    require_own(run, evaluation)
    env = run.env
    results = {key: env[key] for key in ("seed", "data", "device", "dtype")} | evaluation.scores.to_dict() | more
    parts = {"test": evaluation.test, "val": evaluation.val}
    logits = dict(to_file(outputs, name) for name, outputs in parts.items() if outputs and outputs.fresh)
    predictions = to_csv(evaluation.predictions())
    run.rewrite_in_manifest({**logits, "predictions.csv": predictions, "results.json": format_object(results)})
    return results


def rewrite_scores(run: Run, evaluation: Evaluation) -> dict[str, Any]:
    """As `write_scores`, but keep what training measured, times and memory. Raises `ModelError` for damaged results."""
    require_own(run, evaluation)
    if not run.scored:
        return write_scores(run, evaluation, {})
    run.verify("results.json")
    earlier = run.read_json("results.json")
    computed = evaluation.scores.to_dict()
    return write_scores(run, evaluation, {name: earlier[name] for name in earlier if name not in computed})


def to_csv(frame: "pd.DataFrame") -> str:
    """Six significant digits a number, a final newline."""
    return frame.to_csv(index=False, float_format="%.6g")
