"""The public names of the package, each for mkdocstrings to describe."""

import inspect
from typing import Any

import tenfold
from tenfold.training.recipe import Recipe

RESULTS = {
    "tenfold.evaluation.findings": (
        *("Duplicates", "Corruptions", "LabelIssues", "SplitIssues", "SaliencyMaps", "SaliencyMap"),
    ),
    "tenfold.evaluation.report": ("Report",),
    "tenfold.evaluation.compare": ("ComparisonPage",),
    "tenfold.evaluation.duplicates": ("Pair",),
    "tenfold.evaluation.labels": ("Issue",),
    "tenfold.evaluation.seed_variance": ("SeedVariance",),
    "tenfold.serving.predict": ("PredictionResult",),
    "tenfold.serving.source": ("Exported",),
}
"""Classes that public methods return, or parts of what they return, and that nobody has to import."""


def reference() -> str:
    """A block of mkdocstrings for every public name, at its home, under the name that users write."""
    return "\n".join(_block(home, name, f"tenfold.{name}") for name, home in tenfold._HOMES.items())


def results() -> str:
    """A block for every class of `RESULTS`."""
    return "\n".join(_block(home, name, name) for home, names in RESULTS.items() for name in names)


def _block(home: str, name: str, heading: str) -> str:
    options = [f"heading: {heading}", f"toc_label: {name}"]
    if name == "Recipe":  # its fields have a page of their own
        options.append(f"members: [{', '.join(_methods(Recipe))}]")
    return "\n".join([f"::: {home}.{name}", "    options:", *(f"      {option}" for option in options), ""])


def _methods(cls: Any) -> list[str]:
    wrapped = (staticmethod, classmethod, property)
    public = {name: value for name, value in vars(cls).items() if not name.startswith("_")}
    return [name for name, value in public.items() if inspect.isfunction(value) or isinstance(value, wrapped)]
