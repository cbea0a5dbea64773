"""What each idea of a fast recipe is worth: the recipe without it, beside the recipe, run by run with the same seeds.

    python benchmarks/ablation.py --recipe fast89 --runs 5

Scored on the last 5,000 training images. An idea that saves time is worth what the recipe without it takes longer; one
that adds accuracy, what the recipe without it gets wrong. Resumable: runs that are there are not repeated.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from tenfold.scaling.bench import bench, compare, summarize
from tenfold.training.recipe import Recipe, find_recipe

VAL_SIZE = 5000


def variants(recipe: Recipe) -> dict[str, Recipe]:
    """The recipe without one idea each, by what is missing."""
    return {
        "no-easy-images-left-out": replace(recipe, easy_share=0.0),
        "no-small-images": replace(recipe, small_share=0.0),
        "nothing-frozen": replace(recipe, frozen_share=0.0),
        "first-bias-trained-throughout": replace(recipe, whitening_epochs=max(3.0, recipe.epochs)),
        "six-views-of-all": replace(recipe, unsure_share=1.0),
        "one-view": replace(recipe, views="one"),
        "no-label-smoothing": replace(recipe, label_smoothing=0.0),
    }


def write_variants(recipe: Recipe, folder: Path) -> list[str]:
    """Write the recipe and its variants as JSON files; return their paths, the recipe's first."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, variant in {"whole": recipe, **variants(recipe)}.items():
        path = folder / f"{name}.json"
        path.write_text(replace(variant, name=name).to_json())
        paths.append(str(path))
    return paths


def main() -> None:
    """Run what is missing and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="fast89")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    options = parser.parse_args()
    paths = write_variants(find_recipe(options.recipe), options.out / "recipes")
    done = bench(paths, range(options.runs), options.out / "runs", ["--val-size", str(VAL_SIZE)])
    rows = [summarize(Path(path).stem, done[path]) for path in paths]
    print(f"| {options.recipe} | accuracy (n = {options.runs}) | difference, 95 % interval | normalised seconds |")
    print("|---|---|---|---|")
    for row in rows:
        compared = compare("whole", row["recipe"], rows[0]["accuracies"], row["accuracies"])
        low, high = (100 * end for end in compared["ci95"] or (float("nan"),) * 2)
        difference = "" if row is rows[0] else f"{100 * compared['difference']:+.2f} ({low:+.2f} to {high:+.2f})"
        spread = 100 * (row["std"] or 0.0)
        seconds = row["normalised_seconds_median"]
        print(f"| {row['recipe']} | {100 * row['mean']:.2f} ± {spread:.2f} % | {difference} | {seconds:.1f} |")


if __name__ == "__main__":
    main()
