"""A plugin with the callback `hooks`: a line for every hook that is called, and in which process; it ends training."""

import os
from pathlib import Path
from typing import Any

import tenfold

STOP_AT = 6


@tenfold.register_callback("hooks")
class Hooks(tenfold.Callback):
    """Writes `logs/hooks.txt` in the run directory; after step `STOP_AT` it stops training."""

    def __init__(self) -> None:
        self.path: Path | None = None

    def on_fit_start(self, trainer: tenfold.Trainer) -> None:
        """Choose the file."""
        folder = trainer.log_dir or Path()
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "hooks.txt"
        self.write("fit start", trainer.step)

    def on_step_end(self, trainer: tenfold.Trainer) -> None:
        """Stop where it is time."""
        self.write("step end", trainer.step)
        trainer.should_stop = trainer.step == STOP_AT

    def on_epoch_end(self, trainer: tenfold.Trainer, metrics: tenfold.EpochMetrics) -> None:
        """Note the epoch."""
        self.write("epoch end", metrics.epoch)

    def on_fit_end(self, trainer: tenfold.Trainer) -> None:
        """Note the last step."""
        self.write("fit end", trainer.step)

    def on_evaluation_end(self, run: tenfold.Run) -> None:
        """Note what was scored."""
        self.write("evaluation end", run.metrics.epochs)

    def on_run_end(self, run: tenfold.Run) -> None:
        """Note that this is all."""
        self.write("run end", run.scored)

    def write(self, hook: str, value: Any) -> None:
        """Append a line."""
        assert self.path is not None
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"rank {os.environ.get('RANK')}: {hook} {value}\n")
