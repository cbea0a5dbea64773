"""Runs as a bench records them, made up."""

from typing import Any

from tenfold.scaling.summary import Timed

HERE = {
    "cpu": "a CPU",
    "gpu": None,
    "device": "cpu",
    "dtype": "bfloat16",
    "threads": 2,
    "versions": {"python": "3.11", "torch": "2.13"},
    "code": "0123",
}


def timed(
    accuracy: float,
    total: float,
    before: float | None = 750.0,
    after: float | None = 750.0,
    environment: dict[str, Any] = HERE,
    **more: float,
) -> Timed:
    """A run of so many seconds, one of them for set-up and one for scoring."""
    seconds = {
        "setup_seconds": 1.0,
        "train_seconds": max(total - 2, 0.0),
        "evaluation_seconds": 1.0,
        "total_seconds": total,
    }
    results = {"seed": 0, "device": "cpu", "test_accuracy": accuracy, **seconds, "peak_memory_bytes": 2e9, **more}
    return Timed(results, before, after, environment)
