"""Variance of the test accuracy over seeds, and the least difference of two single runs that is significant."""

import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tenfold.errors import ModelError
from tenfold.training.fingerprint import have_same_data
from tenfold.training.run import Run
from tenfold.training.runs import list_runs

_BENCH = "bench.json"


@dataclass(frozen=True)
class SeedVariance:
    """Test accuracies over the `n` runs of a run's bench: their mean and standard deviation (`std`).

    real_difference: the least significant difference of two single runs. Two that differ only in the seed are farther
    apart in 5 % of cases: t · √2 · std, with Student's t of n − 1 degrees of freedom, since the std is itself
    estimated. missing: why there is none of this, else None.
    """

    missing: str | None
    n: int | None = None
    mean: float | None = None
    std: float | None = None
    real_difference: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, ready for JSON; the reason alone where there are no values."""
        return {"missing": self.missing} if self.missing else asdict(self)


def seed_variance(run: Run) -> SeedVariance:
    """The seed variance of the bench that the run is part of."""
    folder = run.path.resolve().parent
    if not (folder / _BENCH).is_file():
        return SeedVariance("this run is not part of a bench: tenfold bench trains several")
    rows = [row for row in list_runs(folder) if row.accuracy is not None]
    same = [row for row in rows if _is_alike(Path(row.run), run)]
    by_seed = {row.seed: row.accuracy for row in same if row.accuracy is not None}  # a copied run is not another sample
    values = list(by_seed.values())
    if len(values) < 2:
        return SeedVariance("its bench has no other finished run of this recipe")
    from scipy.stats import t

    std = statistics.stdev(values)
    real = float(t.ppf(0.975, len(values) - 1)) * 2**0.5 * std
    return SeedVariance(None, len(values), statistics.fmean(values), std, real)


def _is_alike(path: Path, run: Run) -> bool:
    """Whether that run has the same recipe and data, not just the same names."""
    try:
        other = Run.open(path)
        return other.recipe == run.recipe and have_same_data(other.env, run.env)
    except ModelError:  # a damaged neighbour is none
        return False
