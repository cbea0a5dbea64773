"""Files of plots with a quarter of the pixels that users get, for speed: a report draws six."""

import importlib.util

import pytest


def use_coarse_plots(patch: pytest.MonkeyPatch) -> None:
    """In this process; where Matplotlib is not installed, nothing is drawn."""
    if importlib.util.find_spec("matplotlib"):
        patch.setattr("tenfold.evaluation.plots.style.DPI", 100)
