"""What can honestly be said of many runs: means with intervals, spreads of times, paired comparisons.

Neighbours on a shared machine can triple a time. So the rate of a bfloat16 matrix product is measured right before and
after each run, and times are given in normalised seconds, too: seconds × rate ÷ 750 GFLOP/s.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tenfold.console import plural
from tenfold.errors import DivergedError
from tenfold.training.speed import NORMAL_RATE

STEADY = 0.10
"""The largest difference of a run's two rates, as a share, at which its time counts as measured."""
FEWEST = 3
"""Pairs of runs for a verdict: of two, any interval is a guess."""
PARTS = ("total", "setup", "train", "evaluation")

EvalSplit = Literal["validation", "test"]


@dataclass(frozen=True)
class Timed:
    """A finished run: its `results.json`, the matrix product rates before and after it, and where it ran.

    The rates are in GFLOP/s, and None for a run that no bfloat16 CPU took: its time cannot be normalised.
    """

    results: dict[str, Any]
    rate_before: float | None
    rate_after: float | None
    environment: dict[str, Any]

    @property
    def seed(self) -> int:
        """What its randomness was drawn from."""
        return int(self.results["seed"])

    @property
    def speed_drift(self) -> float:
        """By what share the lower rate falls short of the higher."""
        if self.rate_before is None or self.rate_after is None:
            return 0.0
        return 1 - min(self.rate_before, self.rate_after) / max(self.rate_before, self.rate_after)

    def accuracy(self, measured_on: EvalSplit) -> float:
        """A share of the validation or of the test images."""
        return float(self.results["val_accuracy" if measured_on == "validation" else "test_accuracy"])

    def seconds(self, part: str = "total") -> float:
        """Of one of `PARTS`, on the clock."""
        return float(self.results[f"{part}_seconds"])

    def normalised(self, part: str = "total") -> float | None:
        """As `seconds`, in normalised ones."""
        if self.rate_before is None or self.rate_after is None:
            return None
        return self.seconds(part) * (self.rate_before + self.rate_after) / 2 / NORMAL_RATE


@dataclass(frozen=True)
class Diverged:
    """A run whose loss was no longer finite; it would do so again."""

    seed: int
    reason: str


Outcome = Timed | Diverged


def interval(values: Sequence[float], confidence: float = 0.95) -> list[float] | None:
    """The interval of the mean by Student's t, or None for fewer than two values."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    quantile = float(t.ppf((1 + confidence) / 2, len(values) - 1))
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return [mean - half, mean + half]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and ends."""
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    return {"median": median, "q1": q1, "q3": q3, "min": min(values), "max": max(values)}


def summarize(recipe: str, runs: Sequence[Outcome], measured_on: EvalSplit = "test") -> dict[str, Any]:
    """One row of the table: accuracy's mean, spread and interval; spreads of times; memory; where; every run.

    Raises `DivergedError` where no run came through.
    """
    done = [run for run in runs if isinstance(run, Timed)]
    lost = [run for run in runs if isinstance(run, Diverged)]
    if not done:
        raise DivergedError(f"no run of {recipe} came through; the last: {lost[-1].reason}")
    accuracies = [run.accuracy(measured_on) for run in done]
    seconds = {part: spread([run.seconds(part) for run in done]) for part in PARTS}
    normalised = {part: _normalised(done, part) for part in PARTS}
    total = normalised["total"]
    return {
        "recipe": recipe,
        "n": len(done),
        "measured_on": measured_on,
        "mean": statistics.fmean(accuracies),
        "std": statistics.stdev(accuracies) if len(done) > 1 else None,
        "ci95": _between(0.0, 1.0, interval(accuracies)),
        "seconds_median": seconds["total"]["median"],
        "normalised_seconds_median": total["median"] if total else None,
        "seconds": seconds,
        "normalised_seconds": normalised,
        "peak_memory_bytes": max(run.results["peak_memory_bytes"] for run in done),
        "unsteady": [run.seed for run in done if run.speed_drift > STEADY],
        "diverged": [run.seed for run in lost],
        "environments": [run.environment for i, run in enumerate(done) if not _seen(run, done[:i])],
        "runs": [_row(run, measured_on) for run in done],
    }


def _between(least: float, most: float, ends: list[float] | None) -> list[float] | None:
    return ends and [min(max(end, least), most) for end in ends]


def _normalised(runs: Sequence[Timed], part: str) -> dict[str, float] | None:
    """The spread of a part's normalised seconds; None where some run has none."""
    values = [value for run in runs if (value := run.normalised(part)) is not None]
    return spread(values) if len(values) == len(runs) else None


def _seen(run: Timed, earlier: Sequence[Timed]) -> bool:
    return any(run.environment == other.environment for other in earlier)


def _row(run: Timed, measured_on: EvalSplit) -> dict[str, Any]:
    return {
        "seed": run.seed,
        "accuracy": run.accuracy(measured_on),
        "seconds": run.seconds(),
        "normalised_seconds": run.normalised(),
        "rate_before": run.rate_before,
        "rate_after": run.rate_after,
        "steady": run.speed_drift <= STEADY,
    }


def compare(a: dict[str, Any], b: dict[str, Any], comparisons: int = 1) -> dict[str, Any]:
    """Compare two rows of `summarize`, seed by seed: accuracy by its difference b − a, time by the ratio b / a.

    comparisons: how many are made at once; the intervals are as much wider (Bonferroni), so that in 95 % of cases all
    those of accuracy hold at once, and likewise all those of time. Times are normalised ones where both have them, and
    only of pairs around which the machine was steady.
    """
    confidence = 1 - 0.05 / comparisons
    pairs = _pairs(a["runs"], b["runs"])
    difference = _paired([y["accuracy"] - x["accuracy"] for x, y in pairs], confidence)
    steady = [pair for pair in pairs if all(run["steady"] for run in pair)]
    normalised = all(run["normalised_seconds"] is not None for pair in steady for run in pair)
    kind = "normalised_seconds" if normalised else "seconds"
    logarithm = _paired([math.log(y[kind] / x[kind]) for x, y in steady], confidence)
    within = [math.exp(end) for end in logarithm["interval"]] if logarithm["interval"] else None
    ratio = logarithm | {"mean": math.exp(logarithm["mean"]), "interval": within}
    names = {"a": a["recipe"], "b": b["recipe"], "n": len(pairs), "confidence": confidence}
    return names | {"accuracy": difference, kind: ratio, "verdict": _verdict(names, difference, ratio)}


def _pairs(a: Sequence[dict[str, Any]], b: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Those with the same seed; what diverged on one side has no partner."""
    by_seed = {run["seed"]: run for run in b}
    return [(run, by_seed[run["seed"]]) for run in a if run["seed"] in by_seed]


def _paired(values: Sequence[float], confidence: float) -> dict[str, Any]:
    """Number, mean and interval of paired differences, and whether they are surely not 0.

    Equal differences prove nothing: they come of rounding, since accuracies are counted in whole images.
    """
    within = interval(values, confidence)
    differs = len(values) >= FEWEST and within is not None and within[0] < within[1] and not within[0] <= 0 <= within[1]
    mean = statistics.fmean(values) if values else 0.0
    return {"n": len(values), "mean": mean, "interval": within, "differs": differs}


def _verdict(names: dict[str, Any], difference: dict[str, Any], ratio: dict[str, Any]) -> str:
    a, b = names["a"], names["b"]
    if names["n"] < FEWEST:
        return f"{names['n']} seeds in both {a} and {b} say too little of the spread to compare them: take more"
    sure = f"{100 * names['confidence']:.3g} % interval"
    low, high = (100 * end for end in difference["interval"])
    points = f"{100 * difference['mean']:+.2f} points, {sure} {low:+.2f} to {high:+.2f}"
    accuracy = f"no difference in accuracy is shown between {a} and {b}"
    if difference["differs"]:
        accuracy = f"{b} is {'better' if difference['mean'] > 0 else 'worse'} than {a}"
    return f"{accuracy} ({points}); {_verdict_on_time(b, ratio, sure)}"


def _verdict_on_time(b: str, ratio: dict[str, Any], sure: str) -> str:
    if ratio["n"] < FEWEST:
        return f"the machine was steady around {ratio['n']} pairs only, too few to compare times"
    low, high = ratio["interval"]
    times = f"{ratio['mean']:.3f} × the time, {sure} {low:.3f} to {high:.3f}"
    said = "no difference in time is shown"
    if ratio["differs"]:
        said = f"{b} is {'slower' if ratio['mean'] > 1 else 'faster'}"
    return f"{said} ({times})"


def describe(row: dict[str, Any]) -> str:
    """Say a row of `summarize` in a few lines."""
    mean, runs = f"{row['mean']:.2%}", f"n = {row['n']}"
    if row["std"] == 0:
        runs += ", all equal"
    elif row["std"]:
        low, high = row["ci95"]
        mean, runs = f"{mean} ± {row['std']:.2%}", f"{runs}, 95 % interval {low:.2%} to {high:.2%}"
    return "\n".join(
        [
            f"{row['recipe']}: {row['measured_on']} accuracy {mean} ({runs})",
            f"  {_format_times(row)}; {row['peak_memory_bytes'] / 1e9:.2f} GB",
            *(f"  {note}" for note in _notes(row)),
        ]
    )


def _format_times(row: dict[str, Any]) -> str:
    clock = row["seconds"]["total"]
    on_the_clock = f"{clock['median']:.1f} s on the clock ({clock['min']:.1f} to {clock['max']:.1f})"
    best = row["normalised_seconds"] if row["normalised_seconds"]["total"] else row["seconds"]
    parts = " + ".join(f"{best[part]['median']:.1f} {part}" for part in PARTS[1:])
    if best is row["seconds"]:
        return f"{on_the_clock}: {parts}"
    total = best["total"]
    said = f"{total['median']:.1f} normalised seconds in the median ({total['min']:.1f} to {total['max']:.1f}): {parts}"
    return f"{said}; {on_the_clock}"


def _notes(row: dict[str, Any]) -> list[str]:
    """What a reader of the figures must know."""
    remarks = []
    if row["unsteady"]:
        remarks.append(f"the machine was unsteady around {_seeds(row['unsteady'])}: such times mean little")
    if row["diverged"]:
        remarks.append(f"diverged and left out: {_seeds(row['diverged'])}")
    if differing := _differing(row["environments"]):
        count, what = len(row["environments"]), ", ".join(differing)
        remarks.append(f"made in {count} different environments ({what}): times do not compare, accuracies may not")
    return remarks + [say_environment(environment) for environment in row["environments"]]


def _differing(environments: Sequence[dict[str, Any]]) -> list[str]:
    """What of the machine, the versions and the code is not the same in all of them."""
    first, *others = environments
    names = dict.fromkeys(name for environment in environments for name in environment)  # old records note fewer
    return [name for name in names if any(other.get(name) != first.get(name) for other in others)]


def say_environment(environment: dict[str, Any]) -> str:
    """Machine and versions in one line."""
    versions = " ".join(f"{name} {number}" for name, number in environment["versions"].items())
    where = environment["gpu"] or environment["cpu"]
    how = f"{environment['dtype']}, {plural(environment['threads'], 'thread')}"
    kernels = f", {environment['kernels']} kernels" if environment.get("kernels") else ""
    return f"{where}, {how}{kernels}; {versions}; code {environment['code']}"


def _seeds(numbers: Sequence[int]) -> str:
    return f"seed{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
