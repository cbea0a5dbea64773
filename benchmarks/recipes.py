"""The fast recipes in one table and one picture: accuracy and time of many runs each, on the test images.

    python benchmarks/recipes.py

It goes on with what `tenfold bench --recipe NAME` left in runs/bench-NAME, and runs what is missing: three hours in
all.
"""

import argparse
from pathlib import Path
from typing import Any

from tenfold.console import log_info
from tenfold.evaluation import plots
from tenfold.scaling.bench import Setting, bench
from tenfold.scaling.summary import PARTS, describe, summarize
from tenfold.training.device import select_device
from tenfold.training.precision import bfloat16_pays
from tenfold.training.recipe_files import find_recipe

RUNS = {"fast89": 20, "fast94": 10, "fast96": 1}
SETTING = Setting(("--data", "cifar10", "--device", "auto"))  # that of `tenfold bench`, so that its runs count
COLUMNS = (
    "recipe",
    "test accuracy",
    "n",
    "95 % interval",
    "normalised seconds, median (range)",
    "of them set-up + training + scoring",
    "peak memory",
)


def main() -> None:
    """Run what is missing, print the table in Markdown and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--picture", type=Path, default=Path("docs/images/bench.png"))
    options = parser.parse_args()
    if select_device().device.type != "cpu" or not bfloat16_pays():
        parser.error("times can be normalised only on a CPU that bfloat16 is faster on, and where there is no GPU")
    rows = [_measure(name, count, options.out) for name, count in RUNS.items()]
    print(f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|", sep="\n")
    for row in rows:
        print(f"| {' | '.join(_cells(row))} |")
    plots.save(plots.accuracy_and_time(rows), options.picture)


def _measure(name: str, count: int, out: Path) -> dict[str, Any]:
    outcomes = bench({name: find_recipe(name)}, range(count), out / f"bench-{name}", SETTING)
    row = summarize(name, outcomes[name])
    for line in describe(row).splitlines():  # what must be known before it is published: unsteady runs, lost seeds
        log_info(line)
    return row


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    spread = f" ± {100 * row['std']:.2f}" if row["std"] else ""
    within = " to ".join(f"{100 * end:.2f}" for end in row["ci95"]) + " %" if row["ci95"] else ""
    seconds = row["normalised_seconds"]
    total, parts = seconds["total"], (seconds[part]["median"] for part in PARTS[1:])
    ends = f" ({total['min']:,.1f} to {total['max']:,.1f})" if row["n"] > 1 else ""
    return (
        f"`{row['recipe']}`",
        f"{100 * row['mean']:.2f}{spread} %",
        str(row["n"]),
        within,
        f"{total['median']:,.1f}{ends}",
        " + ".join(f"{part:,.1f}" for part in parts),
        f"{row['peak_memory_bytes'] / 1e9:.2f} GB",
    )


if __name__ == "__main__":
    main()
