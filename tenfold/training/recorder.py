"""Callbacks that write a run directory: tables of the training, and checkpoints to resume from."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, fields

from tenfold.files import write_text
from tenfold.training.callbacks import Callback, EpochMetrics
from tenfold.training.run import Run
from tenfold.training.trainer import Trainer

CHECKPOINT_SECONDS = 5.0
CHECKPOINT_SHARE = 0.01
"""A checkpoint is due when this many seconds have passed and when it costs at most this share of them."""


class CsvLog(Callback):
    """Writes metrics.csv (a row an epoch) and steps.csv (a row a step) after every epoch."""

    def __init__(self, run: Run):
        self.run = run

    def on_epoch_end(self, trainer: Trainer, metrics: EpochMetrics) -> None:
        """Write both tables."""
        self.write(trainer)

    def on_fit_end(self, trainer: Trainer) -> None:
        """Write both tables, of a run without any step with no rows."""
        self.write(trainer)

    def write(self, trainer: Trainer) -> None:
        """Write both tables as of now. Raises `StorageError`."""
        epochs = [list(asdict(epoch).values()) for epoch in trainer.epochs]
        steps = [
            [step, trainer.schedule.epoch(step), loss, accuracy]
            for step, (loss, accuracy) in enumerate(trainer.log[: trainer.step].tolist(), start=1)
        ]
        columns = [field.name for field in fields(EpochMetrics)]
        write_text(self.run.path / "metrics.csv", _to_csv(columns, epochs))
        write_text(self.run.path / "steps.csv", _to_csv(("step", "epoch", "loss", "accuracy"), steps))


def _to_csv(columns: Sequence[str], rows: Sequence[Sequence[float]]) -> str:
    """Rows of six significant digits each; nan is an empty cell."""
    lines = [columns, *(["" if math.isnan(value) else f"{value:.6g}" for value in row] for row in rows)]
    return "".join(",".join(line) + "\n" for line in lines)


class Checkpoints(Callback):
    """Saves checkpoints often enough to lose little, and seldom enough to cost little."""

    def __init__(self, run: Run):
        self.run = run
        self.last, self.cost = time.perf_counter(), 0.0
        self.step: int | None = None

    def on_fit_start(self, trainer: Trainer) -> None:
        """Start the clock; the state that training starts or resumes from needs no checkpoint."""
        self.step, self.last = trainer.step, time.perf_counter()

    def on_step_end(self, trainer: Trainer) -> None:
        """Save where it is due."""
        if time.perf_counter() - self.last >= max(CHECKPOINT_SECONDS, self.cost / CHECKPOINT_SHARE):
            self.save(trainer)

    def on_fit_end(self, trainer: Trainer) -> None:
        """Save the last step, unless it is saved already."""
        if trainer.step != self.step:
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Save this step. Raises `StorageError`; older checkpoints then stay."""
        began = time.perf_counter()
        self.run.save_checkpoint(trainer.checkpoint())
        self.step, self.last = trainer.step, time.perf_counter()
        self.cost = self.last - began
