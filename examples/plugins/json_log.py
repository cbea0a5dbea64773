"""A callback that logs every epoch and the final scores as lines of JSON.

    TENFOLD_PLUGINS=json_log.py tenfold train --log json-lines

writes `logs/log.jsonl` in the run directory.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tenfold


@tenfold.register_callback("json-lines")
class JsonLines(tenfold.Callback):
    """One line an epoch, and one with the scores."""

    def __init__(self) -> None:
        self.path: Path | None = None

    def on_fit_start(self, trainer: tenfold.Trainer) -> None:
        """Choose the file: a resumed run appends to its own."""
        folder = trainer.log_dir or Path()
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "log.jsonl"

    def on_epoch_end(self, trainer: tenfold.Trainer, metrics: tenfold.EpochMetrics) -> None:
        """Write the epoch's metrics; without validation images theirs are not a number, in JSON null."""
        values = {name: None if value != value else value for name, value in asdict(metrics).items()}
        self.write({"step": trainer.step, **values})

    def on_evaluation_end(self, run: tenfold.Run) -> None:
        """Write the scores."""
        self.write(run.metrics.to_dict())

    def write(self, line: dict[str, Any]) -> None:
        """Append one object."""
        assert self.path is not None
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
