"""The command as the documentation's pages run it: the slowest parts of `audit` and `bench` are shortened."""

from pathlib import Path
from unittest.mock import patch

from tenfold.data.dataset import Split
from tenfold.evaluation import labels
from tenfold.scaling import bench
from tenfold.training.recipe import Recipe
from tests.support import forks

recipe_for, matmul_gflops = labels.recipe_for, bench.matmul_gflops


def short_recipe(train: Split) -> Recipe:
    """For the audit's cross-validation."""
    return recipe_for(train).with_epochs(0.5)


def quick_gflops() -> float:
    """The machine's speed, measured in a moment."""
    return matmul_gflops(size=64, seconds=0.01)


def command(*words: str | Path) -> None:
    """`tenfold WORDS…`, of this process."""
    with patch.object(labels, "recipe_for", short_recipe), patch.object(bench, "matmul_gflops", quick_gflops):
        forks.command(*words)
