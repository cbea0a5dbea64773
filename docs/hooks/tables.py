"""Markdown tables."""

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells, whose line breaks become spaces."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines) + "\n"


def code(text: str) -> str:
    """Inline code, empty for an empty text."""
    return f"`{text}`" if text else ""


def plain(text: str) -> str:
    """Prose from a docstring: what Markdown would take for HTML is escaped, code stays."""
    parts = text.split("`")
    return "`".join(part if i % 2 else part.replace("<", "&lt;").replace("*", r"\*") for i, part in enumerate(parts))


def _cell(text: str) -> str:
    """One line; a `|` within code needs no escape, others do."""
    parts = " ".join(text.split()).split("`")
    return "`".join(part if i % 2 else part.replace("|", r"\|") for i, part in enumerate(parts))
