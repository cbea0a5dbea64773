"""`tenfold.compare`: several runs side by side on one page."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tenfold.training.run import Run

if TYPE_CHECKING:
    from tenfold.data import Dataset
    from tenfold.evaluation.compare import ComparisonPage


def compare(
    runs: Sequence[Run | Path | str],
    out: Path | str = "comparison.html",
    data: "Dataset | Path | str | None" = None,
) -> "ComparisonPage":
    """Write a page that compares scored runs: scores with intervals, significance tests, disagreements.

    In a notebook, the accuracies with their intervals are shown.

    data: what the runs were trained on, or where its folder is now. Raises `UsageError` for fewer than two runs or one
    named twice, `ModelError` for an unfinished or damaged run, `DataError` where they were scored on different images.
    """
    from tenfold.evaluation.compare import write_comparison

    paths = [run.path if isinstance(run, Run) else Path(run) for run in runs]
    return write_comparison(paths, Path(out), Path(data) if isinstance(data, str) else data)
