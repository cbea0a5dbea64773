"""The public names of the package, each for mkdocstrings to describe."""

import tenfold


def reference() -> str:
    """A block of mkdocstrings for every public name, at its home."""
    return "\n".join(f"::: {home}.{name}\n" for name, home in tenfold._HOMES.items())
