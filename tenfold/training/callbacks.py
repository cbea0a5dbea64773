"""Callbacks: what happens beside the training steps, such as progress, logs, checkpoints and early stopping.

A callback that only watches changes no bit of the result: all randomness of training has generators of its own.
"""

import math
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from tenfold.console import log_info, plural, progress
from tenfold.errors import UsageError
from tenfold.registry import Registry

if TYPE_CHECKING:
    from tenfold.training.run import Run
    from tenfold.training.trainer import Trainer


C = TypeVar("C", bound="Callback")


@dataclass(frozen=True)
class EpochMetrics:
    """A row of metrics.csv. Accuracies in [0, 1]; nan without validation images; seconds of this epoch.

    epoch: how many are done, the last one perhaps a part. stage: from 1. train_loss with its L2 terms.
    """

    epoch: float
    stage: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    seconds: float


class Callback:
    """Hooks into `Trainer.fit` and `tenfold.train`; override those that you need.

    They are called in the order of the list of callbacks, where several processes train together in the first one only.
    An error that a hook raises ends the run; its checkpoints stay. `trainer.should_stop = True` ends training after the
    current step.
    """

    def on_fit_start(self, trainer: "Trainer") -> None:
        """Before the first step, or before the next one of a resumed run (`trainer.step`)."""

    def on_step_end(self, trainer: "Trainer") -> None:
        """After every step; `trainer.log[trainer.step - 1]` holds its loss and accuracy."""

    def on_epoch_end(self, trainer: "Trainer", metrics: EpochMetrics) -> None:
        """After every epoch, and after the last step."""

    def on_fit_end(self, trainer: "Trainer") -> None:
        """After the last step that is taken: of all, or before a stop (`trainer.interrupted`: by a signal)."""

    def on_exception(self, trainer: "Trainer", error: BaseException) -> None:
        """After a step, a hook, scoring or the report failed with `error`; the state may be amid a step."""

    def on_evaluation_end(self, run: "Run") -> None:
        """When the scores are in results.json; not after `Trainer.fit`, which has no test images."""

    def on_run_end(self, run: "Run") -> None:
        """When the run directory is complete: model file, plots and report, as far as they were asked for."""


def report_exception(callbacks: Iterable[Callback], trainer: "Trainer", error: BaseException) -> None:
    """Call `on_exception` of all; what fails there is logged, so that the first error is the one that is raised."""
    for callback in callbacks:
        try:
            callback.on_exception(trainer, error)
        except Exception as another:
            log_info(f"{type(callback).__name__}.on_exception failed: {another}")


class ProgressBar(Callback):
    """A bar of images with loss, accuracy and images per second, on a terminal or in a notebook."""

    def __init__(self, description: str = "training") -> None:
        self.description = description
        self._display = ExitStack()

    def on_fit_start(self, trainer: "Trainer") -> None:
        """Show the bar."""
        size = trainer.schedule.batch_size
        bar = progress(self.description, trainer.schedule.total * size, done=trainer.step * size)
        self._advance = self._display.enter_context(bar)
        self._last = time.perf_counter()

    def on_step_end(self, trainer: "Trainer") -> None:
        """Move the bar by a batch."""
        before, self._last = self._last, time.perf_counter()
        loss, accuracy = trainer.log[trainer.step - 1].tolist()
        size = trainer.schedule.batch_size
        note = f"loss {loss:.3f}  accuracy {accuracy:.1%}  {size / (self._last - before):,.0f} images/s"
        self._advance(size, note=note)

    def on_fit_end(self, trainer: "Trainer") -> None:
        """Take the bar away."""
        self._display.close()

    def on_exception(self, trainer: "Trainer", error: BaseException) -> None:
        """Take the bar away."""
        self._display.close()


class EpochLog(Callback):
    """One line an epoch through `logging`."""

    def on_epoch_end(self, trainer: "Trainer", metrics: EpochMetrics) -> None:
        """Log the epoch's loss and accuracy."""
        line = f"epoch {metrics.epoch:g}: loss {metrics.train_loss:.4f}, accuracy {metrics.train_accuracy:.2%}"
        if not math.isnan(metrics.val_accuracy):
            line += f"; validation loss {metrics.val_loss:.4f}, accuracy {metrics.val_accuracy:.2%}"
        log_info(f"{line}; {metrics.seconds:.1f} s")


class EarlyStopping(Callback):
    """Stops training when a metric has not improved for `patience` epochs.

    monitor: `val_loss`, `val_accuracy` (both take validation images), `train_loss` or `train_accuracy`. min_delta: what
    counts as an improvement, more than this. It reads the run's whole history, so a resumed run stops at the same
    epoch. The weights are those of the last epoch, not of the best.
    """

    def __init__(
        self,
        patience: int = 3,
        monitor: Literal["val_loss", "val_accuracy", "train_loss", "train_accuracy"] = "val_loss",
        min_delta: float = 0.0,
    ):
        self.patience, self.monitor, self.min_delta = patience, monitor, min_delta

    def on_fit_start(self, trainer: "Trainer") -> None:
        """Check that there is something to watch, and stop at once where a resumed run had come to its end."""
        if self.monitor.startswith("val") and trainer.val is None:
            raise UsageError(f"EarlyStopping watches {self.monitor}: hold out validation images (val_size)")
        self._stop_where_due(trainer)

    def on_epoch_end(self, trainer: "Trainer", metrics: EpochMetrics) -> None:
        """Stop where the last `patience` epochs brought nothing."""
        self._stop_where_due(trainer)

    def _stop_where_due(self, trainer: "Trainer") -> None:
        sign = 1 if self.monitor.endswith("accuracy") else -1
        best, since = -math.inf, 0
        for metrics in trainer.epochs:
            value = sign * getattr(metrics, self.monitor)
            since = 0 if value > best + self.min_delta else since + 1
            best = max(best, value)
        if since >= self.patience and not trainer.done:
            why = f"{self.monitor} has not improved for {plural(since, 'epoch')}"
            log_info(f"stopped at epoch {trainer.epochs[-1].epoch:g}: {why}")
            trainer.should_stop = True


CALLBACKS: Registry[Callable[[], Callback]] = Registry("callback")
"""What `--log NAME` and `tenfold.train(log=[NAME])` know."""


def register_callback(name: str) -> Callable[[type[C]], type[C]]:
    """Class decorator: make a callback, whose constructor needs no argument, known to `--log NAME`."""

    def register(callback: type[C]) -> type[C]:
        CALLBACKS.add(name, callback, callback.__module__)
        return callback

    return register
