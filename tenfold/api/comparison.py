"""`tenfold.compare`: several runs side by side on one page; and the training of such runs."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tenfold.errors import UsageError
from tenfold.training.run import Run

if TYPE_CHECKING:
    from tenfold.data import Dataset
    from tenfold.evaluation.compare import ComparisonPage
    from tenfold.training.recipe import Recipe


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


def train_both(
    data: "Dataset | Path | str | None",
    out: Path | str | None = None,
    recipes: "Sequence[str | Path | Recipe]" = ("fast89", "pretrained"),
    *,
    seed: int = 0,
    **options: Any,
) -> "ComparisonPage":
    """Train recipes on the same split, as `tenfold.train` does, and write the page that compares them.

    out: a folder to make, with a run named after each recipe and comparison.html; by default runs/compare-SEED-TIME.
    options: those of `tenfold.train`. Raises as it does, and `UsageError` where `out` is there.
    """
    from tenfold.api.training import RUNS, train
    from tenfold.training.fitting import as_recipe

    folder = Path(out) if out is not None else RUNS / f"compare-{seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    if folder.exists():
        raise UsageError(f"{folder} exists already: choose another --out, or delete it")
    runs = [train(recipe, data, folder / as_recipe(recipe).name, seed=seed, **options) for recipe in recipes]
    return compare(runs, folder / "comparison.html", None if data is None or isinstance(data, str) else data)
