"""What each idea of a fast recipe is worth: the recipe without it, beside the recipe, run by run with the same seeds.

    python benchmarks/ablation.py --recipe fast89 --runs 5

Scored on the last 5,000 training images. An idea that saves time is worth what the recipe without it takes longer; one
that adds accuracy, what the recipe without it gets wrong. Resumable: runs that are there are not repeated.
"""

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from tenfold.scaling.bench import Setting, bench
from tenfold.scaling.summary import compare, summarize
from tenfold.training.networks import WhitenedSpec
from tenfold.training.precision import bfloat16_pays
from tenfold.training.recipe import Recipe
from tenfold.training.recipe_files import find_recipe

SETTING = Setting(("--device", "cpu", "--val-size", "5000"), "validation")


def variants(recipe: Recipe) -> dict[str, Recipe]:
    """The recipe without one idea each, by what is missing; what it does not have cannot be left out."""
    without = {
        "no-pruning": replace(recipe, prune_fraction=0.0, proxy_prune_fraction=0.0),
        "losses-instead-of-the-proxy": _without_proxy(recipe),
        "no-small-images": replace(recipe, low_res_fraction=0.0),
        "nothing-frozen": replace(recipe, freeze_fraction=0.0),
        "first-bias-trained-throughout": replace(
            recipe, whiten_bias_epochs=max(recipe.epochs, recipe.whiten_bias_epochs)
        ),
        "gelu-behind-the-first-layer": _with_gelu(recipe),
        "six-views-of-all": replace(recipe, tta_fraction=1.0),
        "one-view": replace(recipe, tta="one"),
        "no-label-smoothing": replace(recipe, label_smoothing=0.0),
        "flips-drawn": replace(recipe, flip="random"),
    }
    return {name: replace(variant, name=name) for name, variant in without.items() if variant != recipe}


def _with_gelu(recipe: Recipe) -> Recipe:
    """The activation behind the first layer that others have; only the fast networks can choose."""
    if not isinstance(recipe.network, WhitenedSpec):
        return recipe
    return replace(recipe, network=replace(recipe.network, first_activation="gelu"))


def _without_proxy(recipe: Recipe) -> Recipe:
    """As much pruned, by the last losses; a recipe without a proxy stays as it is."""
    if not recipe.uses_proxy:
        return recipe
    return replace(recipe, proxy_widths=(), proxy_prune_fraction=0.0, prune_fraction=recipe.proxy_prune_fraction)


def main() -> None:
    """Run what is missing and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="fast89")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    options = parser.parse_args()
    if not bfloat16_pays():
        parser.error("times can be normalised only on a CPU that bfloat16 is faster on")
    whole = find_recipe(options.recipe)
    others = variants(whole)
    done = bench({"whole": whole} | others, range(options.runs), options.out, SETTING)
    first, *rows = [summarize(name, runs, "validation") for name, runs in done.items()]
    print(
        f"| {options.recipe} | accuracy (n = {options.runs}) | difference, points | normalised seconds | of its time |"
    )
    print("|---|---|---|---|---|")
    print(f"| as it is | {_accuracy(first)} | | {first['normalised_seconds_median']:.1f} | |")
    for row in rows:
        compared = compare(first, row)
        points = _with_interval(compared["accuracy"], 100, "+.2f")
        times = _with_interval(compared["normalised_seconds"], 1, ".3f")
        seconds = row["normalised_seconds_median"]
        print(f"| {row['recipe'].replace('-', ' ')} | {_accuracy(row)} | {points} | {seconds:.1f} | {times} |")


def _accuracy(row: dict[str, Any]) -> str:
    return f"{100 * row['mean']:.2f} ± {100 * (row['std'] or 0.0):.2f} %"


def _with_interval(compared: dict[str, Any], unit: float, form: str) -> str:
    """A mean and its 95 % interval."""
    low, high = compared["interval"] or (math.nan, math.nan)
    return f"{unit * compared['mean']:{form}} ({unit * low:{form}} to {unit * high:{form}})"


if __name__ == "__main__":
    main()
