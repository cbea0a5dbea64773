"""The public names of the package, each for mkdocstrings to describe."""

import inspect
from typing import Any

import tenfold
from tenfold.training.recipe import Recipe


def reference() -> str:
    """A block of mkdocstrings for every public name, at its home, under the name that users write."""
    return "\n".join(_block(name, home) for name, home in tenfold._HOMES.items())


def _block(name: str, home: str) -> str:
    options = [f"heading: tenfold.{name}", f"toc_label: {name}"]
    if getattr(tenfold, name) is Recipe:  # its fields have a page of their own
        options.append(f"members: [{', '.join(_methods(Recipe))}]")
    return "\n".join([f"::: {home}.{name}", "    options:", *(f"      {option}" for option in options), ""])


def _methods(cls: Any) -> list[str]:
    wrapped = (staticmethod, classmethod, property)
    public = {name: value for name, value in vars(cls).items() if not name.startswith("_")}
    return [name for name, value in public.items() if inspect.isfunction(value) or isinstance(value, wrapped)]
