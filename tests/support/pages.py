"""Commands and programs as the documentation's pages run them, shortened.

The network of `fast89` is narrow; the slowest parts of `audit` and `bench` are quick.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from tenfold.data.dataset import Split
from tenfold.evaluation import labels
from tenfold.scaling import bench
from tenfold.training.networks import WhitenedSpec
from tenfold.training.recipe import Recipe
from tenfold.training.recipes import FAST89, RECIPES
from tests.support import forks

recipe_for, matmul_gflops = labels.recipe_for, bench.matmul_gflops
NARROW = replace(FAST89, network=WhitenedSpec(widths=(8, 16, 16)))


def short_recipe(train: Split, own: Recipe = FAST89) -> Recipe:
    """For the audit's cross-validation."""
    return recipe_for(train, own).with_epochs(0.5)


def quick_gflops() -> float:
    """The machine's speed, measured in a moment."""
    return matmul_gflops(size=64, seconds=0.01)


@contextlib.contextmanager
def shortened() -> Iterator[None]:
    """While the block runs."""
    with (
        patch.dict(RECIPES, fast89=NARROW),
        patch.object(labels, "recipe_for", short_recipe),
        patch.object(bench, "matmul_gflops", quick_gflops),
    ):
        yield


def command(*words: str | Path) -> None:
    """`tenfold WORDS…`, of this process."""
    with shortened():
        forks.command(*words)


def program(code: str) -> None:
    """`python -c CODE`, of this process."""
    with shortened():
        forks.program(code)
