"""`tenfold.Run`: a run directory with all that can be asked of it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tenfold.api.model_file import note_stale_model
from tenfold.console import progress_bars
from tenfold.errors import ImageError, ModelError, UsageError
from tenfold.evaluation.calibration import Calibration, calibration_in
from tenfold.training import run as storage

if TYPE_CHECKING:
    import pandas as pd

    from tenfold.api.predictor import Images, Predictor
    from tenfold.data import Dataset
    from tenfold.evaluation.evaluate import Evaluation
    from tenfold.evaluation.explain import Explanation
    from tenfold.evaluation.findings import Audit
    from tenfold.evaluation.report import Report
    from tenfold.serving.export import Int8
    from tenfold.serving.predict import PredictionResult
    from tenfold.serving.source import Exported
    from tenfold.training.provenance import FoundData


@dataclass(frozen=True)
class Metrics:
    """The scores of a run, as in results.json. Accuracies and calibration errors (`ece`) in [0, 1].

    test_accuracy: with the recipe's test-time augmentation; test_accuracy_single_view: without. test_loss: with label
    smoothing and L2 terms; test_cross_entropy: without. interval: 95 %, Wilson's. calibration: None without
    validation images. peak_memory_bytes and seconds: of the training. What
    runs of earlier versions lack is None.
    """

    recipe: str
    data: str
    seed: int
    device: str
    dtype: str
    parameters: int
    epochs: float
    test_accuracy: float
    test_accuracy_single_view: float
    test_loss: float
    test_cross_entropy: float
    test_images: int | None = None
    test_accuracy_interval: tuple[float, float] | None = None
    test_accuracy_top5: float | None = None
    balanced_accuracy: float | None = None
    balanced_accuracy_interval: tuple[float, float] | None = None
    macro_f1: float | None = None
    ece: float | None = None
    ece_single_view: float | None = None
    val_accuracy: float | None = None
    val_accuracy_single_view: float | None = None
    calibration: Calibration | None = None
    train_seconds: float | None = None
    evaluation_seconds: float | None = None
    total_seconds: float | None = None
    peak_memory_bytes: int | None = None

    @classmethod
    def from_results(cls, results: dict[str, Any]) -> Self:
        """Take the known fields of results.json."""
        known = {field.name: results[field.name] for field in fields(cls) if field.name in results}
        for name in ("test_accuracy_interval", "balanced_accuracy_interval"):
            if interval := known.get(name):
                known[name] = tuple(interval)
        return cls(**known | {"calibration": calibration_in(results)})

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, ready for JSON."""
        return asdict(self) | {"calibration": self.calibration and self.calibration.to_dict()}


class Run(storage.Run):
    """One run directory: `Run.open(path)`, or what `tenfold.train` returns.

    Images are given as paths of files or folders, or as one uint8 array N×H×W×3 of the model's size. What needs images
    finds those that the run was trained on; `data` says where their folder is now, or hands a `Dataset` over.
    """

    def __init__(self, path: Path | str):
        super().__init__(Path(path))
        self.timings: dict[str, float] = {}
        """Seconds of what followed the scores in this process: export_seconds, report_seconds."""

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open an existing run directory. Raises `ModelError` where there is none."""
        super().open(Path(path))
        return cls(path)

    def __repr__(self) -> str:
        if not self.scored:
            return f"Run({str(self.path)!r}, {'without scores' if self.trained else 'unfinished'})"
        results = self.require_scores()
        known = "".join(f", {name}={results.get(name)!r}" for name in ("recipe", "test_accuracy"))
        return f"Run({str(self.path)!r}{known})"

    # --- what is written already ---

    @property
    def metrics(self) -> Metrics:
        """The scores. Raises `ModelError` where the run has none yet."""
        return Metrics.from_results(self.require_scores())

    @property
    def history(self) -> "pd.DataFrame":
        """One row an epoch (metrics.csv), columns as in `EpochMetrics`."""
        return self._read_table("metrics.csv")

    @property
    def steps(self) -> "pd.DataFrame":
        """One row a step (steps.csv): step, epoch, loss, accuracy."""
        return self._read_table("steps.csv")

    @property
    def predictions(self) -> "pd.DataFrame":
        """One row a test image (predictions.csv), the classes as text. Raises `ModelError` without scores."""
        from tenfold.evaluation.evaluate import read_predictions

        self.require_scores()
        return read_predictions(self)

    @property
    def per_class(self) -> "pd.DataFrame":
        """Precision, recall and F1 of each class on the test images, as `Evaluation.per_class`. Raises `ModelError`."""
        from tenfold.evaluation.evaluate import read_per_class

        self.require_scores()
        return read_per_class(self)

    def _read_table(self, name: str) -> "pd.DataFrame":
        import pandas as pd

        try:
            return pd.read_csv(self.path / name)
        except (OSError, ValueError) as error:
            raise ModelError(f"{self.path / name}: cannot be read ({error})") from error

    @property
    def has_distance(self) -> bool:
        """Whether the distance that `predict --reject` goes by is fitted, which runs of earlier versions lack."""
        return "rejection" in self.require_scores()

    # --- what is computed ---

    def evaluate(
        self,
        data: "Dataset | FoundData | Path | str | None" = None,
        *,
        labels: "Path | str | None" = None,
        label_columns: str = "",
        device: str = "auto",
        target_error: float | None = None,
    ) -> "Evaluation":
        """Score the run on its test images, or on those of other data, whose scores the run does not keep.

        labels, label_columns: a label file that names the images, in the folder `data` or beside it. target_error: the
        share of wrong answers that the rejection threshold is to keep. Raises `ModelError` for an unfinished or damaged
        run, `DataError` for data of other classes, `UsageError`.
        """
        from tenfold.data import as_label_file, folder_of
        from tenfold.evaluation.distance import add_rejection
        from tenfold.evaluation.evaluate import check_data, evaluate, rewrite_scores
        from tenfold.training.provenance import FoundData, find_data, other_data
        from tenfold.training.run import device_of

        label_file = as_label_file(labels, label_columns)
        if label_file:
            data = folder_of(label_file, _as_folder(data))
        dataset = other_data(self, str(data), None, label_file) if isinstance(data, str | Path) else data
        found = dataset if dataset is None or isinstance(dataset, FoundData) else check_data(self, dataset)
        if found is not None and not found.own:
            return evaluate(self, found, device_of(self, device), target_error=target_error)
        here = found or find_data(self)
        found = here if here.own else None  # where the images are gone, their logits may be enough
        with self.locked():
            evaluation = evaluate(self, found, device_of(self, device), target_error=target_error)
            rewrite_scores(self, evaluation)
            if here.own and here.dataset and not self.has_distance:
                add_rejection(self, here.dataset, device)
            note_stale_model(self.path)
        self.__dict__.pop("predictor", None)  # its threshold may have changed
        return evaluation

    def audit(
        self,
        *,
        full: bool = False,
        data: "Dataset | Path | str | None" = None,
        device: str = "auto",
        progress: bool = True,
    ) -> "Audit":
        """Examine how far the score can be trusted: duplicates, corruptions, label issues, saliency, seed variance.

        full: corrupt all test images, not the first 1,000. The parts are kept in the run directory, and its report is
        written again where it does not show them. Takes minutes. Raises as `evaluate`.
        """
        from tenfold.evaluation.audit import Subject, changed, run_audit
        from tenfold.evaluation.report import REPORT, write_report
        from tenfold.training.run import device_of

        own, dataset = self._own_data(data, "audit")
        page = self.path / REPORT
        with self.locked(), progress_bars(progress):
            evaluation = self.evaluate(own, device=device)
            found, new = run_audit(Subject(self, dataset, evaluation), device_of(self, device), full)
            # an interrupted call may have left a part that is not new, but not on the page either
            if new or not page.is_file() or page.stat().st_mtime < changed(self):
                write_report(self, dataset, evaluation, found)
        return found

    def explain(self, images: "Images", labels: Sequence[int] | None = None) -> "list[Explanation]":
        """Explain predictions: which pixels speak for a class and which against it. In a notebook the plots are shown.

        labels: the number of the class to explain, one an image; by default the predicted ones. Raises `ImageError`
        for a file that cannot be read, `UsageError` for wrong labels, `DataError` for an array of another kind.
        """
        from tenfold.api.explanation import Explanations, explain_each

        found = Explanations()
        for name, explained in explain_each(self, images, labels):
            if isinstance(explained, ImageError):
                raise ImageError(f"{name}: {explained}")
            found.append(explained)
        return found

    def report(
        self, data: "Dataset | Path | str | None" = None, *, device: str = "auto", progress: bool = True
    ) -> "Report":
        """Draw the plots and write report.html. In a notebook, the plots are shown. Raises as `evaluate`."""
        from tenfold.evaluation.report import write_report

        self.require_scores()
        own, dataset = self._own_data(data, "report")
        with self.locked(), progress_bars(progress):
            return write_report(self, dataset, self.evaluate(own, device=device))

    def export(
        self,
        to: str = "onnx",
        out: Path | str | None = None,
        *,
        int8: "Int8" = "off",
        card: bool = False,
        data: "Dataset | Path | str | None" = None,
    ) -> "Exported":
        """Write the model in a registered format, checked against the network. Raises as `tenfold export` does."""
        from tenfold.api.model_file import export

        return export(self, to, Path(out) if out is not None else None, int8=int8, card=card, data=_as_path(data))

    @cached_property
    def predictor(self) -> "Predictor":
        """The run's model file, opened; it is written first where it is missing or out of date."""
        from tenfold.api.model_file import ensure_model_file
        from tenfold.api.predictor import Predictor

        return Predictor.load(ensure_model_file(self))  # written by this object, which may own the directory

    def predict(self, images: "Images", top: int = 1, reject: bool = False) -> "list[PredictionResult]":
        """Classify images: see `Predictor.predict`."""
        return self.predictor.predict(images, top, reject)

    def _own_data(self, data: "Dataset | Path | str | None", method: str) -> "tuple[FoundData, Dataset]":
        """What the run was trained on, compared with what it noted once. Raises `UsageError` for other data."""
        from tenfold.evaluation.evaluate import check_data
        from tenfold.training.provenance import FoundData, reload_dataset

        source = _as_path(data)
        if source is None or isinstance(source, Path):
            dataset = reload_dataset(self, source, f"tenfold.Run.open({str(self.path)!r}).{method}(data=dataset)")
            return FoundData(dataset, True), dataset
        found = check_data(self, source)
        if not found.own:
            raise UsageError(f"{source.name} is not what {self.path} was trained on: {method} is about its own data")
        assert found.dataset is not None
        return found, found.dataset


def _as_folder(data: "Dataset | FoundData | Path | str | None") -> str | None:
    """What images of a label file are in. Raises `UsageError` for a data set, which has labels of its own."""
    if data is None or isinstance(data, str | Path):
        return None if data is None else str(data)
    raise UsageError(f"labels are about a folder of images, not a {type(data).__name__}")


def _as_path(data: "Dataset | Path | str | None") -> "Dataset | Path | None":
    return Path(data) if isinstance(data, str) else data
