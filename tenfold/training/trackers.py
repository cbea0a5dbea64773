"""Experiment trackers as callbacks: TensorBoard and MLflow. Both packages are imported at the first use only.

`tenfold train --log tensorboard` writes curves of steps and epochs, the recipe, the final metrics and the plots.
"""

import importlib.util
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tenfold.console import log_info
from tenfold.errors import UsageError
from tenfold.files import write_text
from tenfold.training.callbacks import CALLBACKS, Callback, EpochMetrics, register_callback

if TYPE_CHECKING:
    from tenfold.training.run import Run
    from tenfold.training.trainer import Trainer

EPOCH_METRICS = ("learning_rate", "train_loss", "train_accuracy", "val_loss", "val_accuracy")


def find_callbacks(names: Iterable[str]) -> list[Callback]:
    """New callbacks of these names, built-in or registered by a plugin. Raises `UsageError` for an unknown one."""
    return [CALLBACKS.find(name)() for name in names]


@register_callback("tensorboard")
class TensorBoard(Callback):
    """Writes event files for TensorBoard into `logs/tensorboard/` in the run directory, or into `folder`."""

    def __init__(self, folder: Path | str | None = None):
        _require("tensorboard", "tensorboard")
        self.folder = Path(folder) if folder is not None else None
        self._writer: Any = None

    def on_fit_start(self, trainer: "Trainer") -> None:
        """Open the file; a resumed run replaces what was logged beyond its checkpoint."""
        from torch.utils.tensorboard import SummaryWriter

        folder = self.folder or (trainer.log_dir or Path()) / "tensorboard"
        self._writer = SummaryWriter(str(folder), purge_step=trainer.step + 1)
        self._writer.add_text("recipe", f"```json\n{trainer.recipe.to_json()}```")

    def on_step_end(self, trainer: "Trainer") -> None:
        """Log loss and accuracy of the step's batch."""
        loss, accuracy = trainer.log[trainer.step - 1].tolist()
        self._writer.add_scalar("step/loss", loss, trainer.step)
        self._writer.add_scalar("step/accuracy", accuracy, trainer.step)

    def on_epoch_end(self, trainer: "Trainer", metrics: EpochMetrics) -> None:
        """Log the epoch's metrics, at its last step."""
        for name, value in _finite(asdict(metrics), EPOCH_METRICS):
            self._writer.add_scalar(f"epoch/{name}", value, trainer.step)
        self._writer.flush()

    def on_fit_end(self, trainer: "Trainer") -> None:
        """Write what is left; close the file where nothing follows."""
        self._writer.flush()
        if trainer.interrupted or trainer.log_dir is None:
            self._writer.close()

    def on_exception(self, trainer: "Trainer", error: BaseException) -> None:
        """Close the file."""
        if self._writer:
            self._writer.close()

    def on_run_end(self, run: "Run") -> None:
        """Log final metrics and plots."""
        for name, value in _numbers(run.require_scores()):
            self._writer.add_scalar(f"final/{name}", value)
        for path in sorted((run.path / "plots").glob("*.png")):
            self._writer.add_image(f"plots/{path.stem}", _pixels(path), dataformats="HWC")
        self._writer.close()
        log_info(f"logged for TensorBoard: tensorboard --logdir {self._writer.log_dir}")


@register_callback("mlflow")
class MLflow(Callback):
    """Logs to MLflow: by default to the local file mlflow.db; MLFLOW_TRACKING_URI names another place.

    experiment: its name; MLFLOW_EXPERIMENT_NAME is honoured.
    """

    def __init__(self, experiment: str | None = None):
        _require("mlflow", "mlflow")
        self.experiment = experiment
        self._id = ""

    def on_fit_start(self, trainer: "Trainer") -> None:
        """Start an MLflow run, or continue that of an interrupted one; log the recipe."""
        import mlflow

        if self.experiment:
            mlflow.set_experiment(self.experiment)
        note = trainer.log_dir / "mlflow.json" if trainer.log_dir else None
        name = trainer.log_dir.parent.name if trainer.log_dir else trainer.recipe.name
        nested = mlflow.active_run() is not None  # the caller's own
        self._id = mlflow.start_run(run_name=name, run_id=_noted_run(note), nested=nested).info.run_id
        if note:
            write_text(note, json.dumps({"run_id": self._id}) + "\n")
        mlflow.log_params(dict(_flat(json.loads(trainer.recipe.to_json()))) | {"seed": trainer.seed})
        mlflow.log_text(trainer.recipe.to_json(), "recipe.json")

    def on_epoch_end(self, trainer: "Trainer", metrics: EpochMetrics) -> None:
        """Log the epoch's metrics, at its last step."""
        import mlflow

        mlflow.log_metrics(dict(_finite(asdict(metrics), EPOCH_METRICS)), step=trainer.step)

    def on_fit_end(self, trainer: "Trainer") -> None:
        """Mark an interrupted run as killed (it may be resumed), one without scores to come as finished."""
        if trainer.interrupted:
            self._end("KILLED")
        elif trainer.log_dir is None:
            self._end("FINISHED")

    def on_exception(self, trainer: "Trainer", error: BaseException) -> None:
        """Mark the run as failed."""
        if self._id:
            self._end("FAILED")

    def on_run_end(self, run: "Run") -> None:
        """Log final metrics, plots and the report."""
        import mlflow

        mlflow.log_metrics({f"final_{name}": value for name, value in _numbers(run.require_scores())})
        for path in (*sorted((run.path / "plots").glob("*.png")), run.path / "report.html"):
            if path.is_file():
                mlflow.log_artifact(str(path))
        self._end("FINISHED")
        log_info(f"logged for MLflow: run {self._id} in {mlflow.get_tracking_uri()}")

    @staticmethod
    def _end(status: str) -> None:
        import mlflow

        mlflow.end_run(status)


def _noted_run(note: Path | None) -> str | None:
    """The MLflow run that an interrupted run began."""
    if note is None or not note.is_file():
        return None
    return str(json.loads(note.read_text(encoding="utf-8"))["run_id"])


def _require(package: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UsageError(f"--log {extra} needs {package}: pip install '.[{extra}]' where tenfold's source lies")


def _numbers(results: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """The scalar results, names as in results.json."""
    yield from _finite(results, [name for name in results if name not in ("seed",)])


def _finite(values: dict[str, Any], names: Iterable[str]) -> Iterator[tuple[str, float]]:
    for name in names:
        value = values[name]
        if isinstance(value, int | float) and not isinstance(value, bool) and value == value:  # not nan
            yield name, float(value)


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of nested JSON."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _flat(item, f"{name}.{key}".lstrip("."))
    else:
        yield name, value


def _pixels(path: Path) -> Any:
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        return np.array(image.convert("RGB"))
