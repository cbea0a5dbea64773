"""Many runs, one process each, recipes alternately, and what can honestly be said of them.

Neighbours on a shared machine can triple a time. So the rate of a bfloat16 matrix product is measured right before and
after each run, and times are given in normalised seconds: seconds × rate ÷ 750 GFLOP/s. A run whose two rates differ
by more than a tenth is measured again.
"""

import json
import math
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from tenfold.console import progress, remark
from tenfold.errors import ModelError, RunFailedError, UsageError
from tenfold.files import parse_object, storage_errors, write_text
from tenfold.training.device import NORMAL_RATE, matrix_rate
from tenfold.training.recipe import find_recipe

STEADY = 0.10
TRIES = 3
SETTINGS = "bench.json"


@dataclass(frozen=True)
class Timed:
    """A finished run: its `results.json`, and the matrix product rates (GFLOP/s) before and after it."""

    results: dict[str, Any]
    rate_before: float
    rate_after: float

    @property
    def unsteadiness(self) -> float:
        """By what share the lower rate falls short of the higher."""
        return 1 - min(self.rate_before, self.rate_after) / max(self.rate_before, self.rate_after)

    def normalised(self, seconds: float) -> float:
        """Turn this run's seconds into normalised ones."""
        return seconds * (self.rate_before + self.rate_after) / 2 / NORMAL_RATE


def bench(
    recipes: Sequence[str], seeds: Sequence[int], out: Path, options: Sequence[str] = ()
) -> dict[str, list[Timed]]:
    """Train every recipe with every seed below `out`, recipes alternately; runs found there are not repeated.

    `options` are handed on to `tenfold train`. Raises `UsageError` where `out` holds anything else, or runs made with
    other options or recipes; `ModelError` where a record there is damaged; `RunFailedError`.
    """
    prepare(recipes, out, options)
    done: dict[str, list[Timed]] = {recipe: [] for recipe in recipes}
    with progress("bench", len(seeds) * len(recipes)) as bar:
        for seed, recipe in product(seeds, recipes):
            timed = run_once(recipe, seed, out, options)
            done[recipe].append(timed)
            bar(1, note=f"{stem(recipe)} seed {seed}: {accuracy(timed):.2%}")
    return done


def prepare(recipes: Sequence[str], out: Path, options: Sequence[str]) -> None:
    """Make `out` a bench's folder, or see that it is one whose runs can be added to. Raises as `bench` does."""
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    _check_settings(out, {stem(recipe): json.loads(find_recipe(recipe).to_json()) for recipe in recipes}, options)


def stem(recipe: str) -> str:
    """What a recipe is called in a bench: its name, or its file's name without ending."""
    return Path(recipe).stem


def _check_settings(out: Path, recipes: dict[str, Any], options: Sequence[str]) -> None:
    path = out / SETTINGS
    if not path.exists():
        if any(out.iterdir()):
            raise UsageError(f"{out} holds other things than a bench: choose another --out")
        known: dict[str, Any] = {}
    else:
        settings = _read(path)
        known = settings.get("recipes", {})
        changed = [name for name, recipe in recipes.items() if known.get(name, recipe) != recipe]
        if changed or settings.get("options") != list(options):
            what = f"another {changed[0]}" if changed else "other options"
            raise UsageError(f"{out} holds runs made with {what}: choose another --out")
    write_text(path, json.dumps({"options": list(options), "recipes": known | recipes}, indent=2) + "\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        return parse_object(path.read_bytes())
    except ValueError as error:
        raise ModelError(f"{path} is damaged ({error}): remove it to measure again") from error


def record_of(recipe: str, seed: int, out: Path) -> Path:
    """The file that a finished run is recorded in; its run directory has the same name without ending."""
    return out / f"{stem(recipe)}-{seed}.json"


def run_once(recipe: str, seed: int, out: Path, options: Sequence[str]) -> Timed:
    """Measure until the machine is steady, a few times at the most, and record the steadiest try beside the run."""
    record = record_of(recipe, seed, out)
    if record.exists():
        return _read_record(record)
    best: Timed | None = None
    for _ in range(TRIES):
        timed = _measure(recipe, seed, record.with_suffix(""), options)
        best = timed if best is None or timed.unsteadiness < best.unsteadiness else best
        if best.unsteadiness <= STEADY:
            break
        remark(f"{record.stem}: rates {timed.rate_before:.0f} and {timed.rate_after:.0f} GFLOP/s, not steady")
    assert best is not None
    write_text(record, json.dumps(asdict(best)) + "\n")
    return best


def _read_record(path: Path) -> Timed:
    record = _read(path)
    try:
        timed = Timed(**record)
        accuracy(timed)
        timed.normalised(timed.results["total_seconds"])
    except (TypeError, KeyError, ZeroDivisionError) as error:
        raise ModelError(f"{path} is damaged: remove it to measure again") from error
    return timed


def clear(run: Path) -> None:
    """Remove what an interrupted or unsteady try of this bench left."""
    shutil.rmtree(run, ignore_errors=True)


def _measure(recipe: str, seed: int, path: Path, options: Sequence[str]) -> Timed:
    clear(path)
    words = ("train", "--recipe", recipe, "--seed", str(seed), "--out", str(path), "--json", "--no-report", *options)
    before = matrix_rate()
    process = subprocess.run([sys.executable, "-m", "tenfold", *words], capture_output=True, text=True, check=False)
    after = matrix_rate()
    if process.returncode:
        last = process.stderr.strip().splitlines()[-1:] or ["no message"]
        raise RunFailedError(f"{path.name}: {last[0].removeprefix('tenfold: ')}", process.returncode)
    return Timed(json.loads(process.stdout), before, after)


# --- what can be said of them ------------------------------------------------------------------------------------


def accuracy(timed: Timed) -> float:
    """The accuracy a bench speaks of: on the validation images where there are any, else on the test images."""
    validation = timed.results.get("val_accuracy")
    return float(timed.results["test_accuracy"] if validation is None else validation)


def interval(values: Sequence[float]) -> list[float] | None:
    """The 95 % interval of the mean by Student's t, or None for fewer than two values."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return [mean - half, mean + half]


def summarize(recipe: str, runs: Sequence[Timed]) -> dict[str, Any]:
    """One row of the table: accuracy's mean, spread and interval; medians and quartiles of times; peak memory."""
    accuracies = [accuracy(run) for run in runs]
    totals = [run.results["total_seconds"] for run in runs]
    normalised = [run.normalised(total) for run, total in zip(runs, totals, strict=True)]
    parts = ("setup_seconds", "train_seconds", "evaluation_seconds")
    return {
        "recipe": recipe,
        "n": len(runs),
        "measured_on": "validation" if runs[0].results.get("val_accuracy") is not None else "test",
        "mean": statistics.fmean(accuracies),
        "std": statistics.stdev(accuracies) if len(runs) > 1 else None,
        "ci95": interval(accuracies),
        "seconds_median": statistics.median(totals),
        "normalised_seconds_median": statistics.median(normalised),
        "normalised_seconds_range": [min(normalised), max(normalised)],
        **{f"normalised_{part}_median": _median_part(runs, part) for part in parts},
        "peak_memory_bytes": max(run.results["peak_memory_bytes"] for run in runs),
        "unsteady": sum(run.unsteadiness > STEADY for run in runs),
        "accuracies": accuracies,
        "normalised_seconds": normalised,
    }


def describe(row: dict[str, Any]) -> str:
    """Say a row of `summarize` in two lines."""
    spread = f" ± {row['std']:.2%}" if row["ci95"] else ""
    within = f", 95 % interval {row['ci95'][0]:.2%} to {row['ci95'][1]:.2%}" if row["ci95"] else ""
    low, high = row["normalised_seconds_range"]
    median = row["normalised_seconds_median"]
    parts = " + ".join(
        f"{row[f'normalised_{part}_seconds_median']:.1f} {part}" for part in ("setup", "train", "evaluation")
    )
    return (
        f"{row['recipe']}: {row['measured_on']} accuracy {row['mean']:.2%}{spread} (n = {row['n']}{within})\n"
        f"  {median:.1f} normalised seconds in the median, {low:.1f} to {high:.1f} ({parts}); "
        f"{row['seconds_median']:.1f} s on the clock; {row['peak_memory_bytes'] / 1e9:.2f} GB"
    )


def _median_part(runs: Sequence[Timed], part: str) -> float:
    return statistics.median(run.normalised(run.results[part]) for run in runs)


def compare(first: str, second: str, a: Sequence[float], b: Sequence[float]) -> dict[str, Any]:
    """Compare two recipes run by run with the same seeds: the mean difference b − a, its interval, and a verdict."""
    differences = [y - x for x, y in zip(a, b, strict=True)]
    ci95 = interval(differences)
    mean = statistics.fmean(differences)
    differs = ci95 is not None and not ci95[0] <= 0 <= ci95[1]
    if ci95 is None:
        verdict = "one run each says nothing about the spread: take more"
    elif differs:
        verdict = f"{second} is {'better' if mean > 0 else 'worse'} than {first} by {abs(mean):.2%}"
    else:
        verdict = f"no difference shown between {first} and {second}: 0 lies within the interval"
    return {"a": first, "b": second, "difference": mean, "ci95": ci95, "differs": differs, "verdict": verdict}
