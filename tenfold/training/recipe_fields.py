"""A recipe's fields as a table: dotted name, value, and what the field means, from the docstring below it."""

import ast
import inspect
import textwrap
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from tenfold.training.recipe import Recipe


class FieldRow(NamedTuple):
    """A field of a recipe: `network.widths`, its value as text, and one sentence."""

    name: str
    value: str
    meaning: str


def field_rows(recipe: Recipe) -> list[FieldRow]:
    """Every field but the recipe's name, the network's first, in the order in which they are declared."""
    network = FieldRow("network.name", recipe.network.name, "Architecture of the network")
    return [network, *(row for row in _rows(recipe, "") if row.name not in ("name", network.name))]


def _rows(value: Any, prefix: str) -> list[FieldRow]:
    rows: list[FieldRow] = []
    meanings = field_docstrings(type(value))
    for field in fields(value):
        content, name = getattr(value, field.name), prefix + field.name
        if is_dataclass(content):
            rows += _rows(content, f"{name}.")
        else:
            rows.append(FieldRow(name, _text(content), _first_sentence(meanings.get(field.name, ""))))
    return rows


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        separator = "; " if value and is_dataclass(value[0]) else ", "
        return separator.join(map(_text, value)) or "none"
    if is_dataclass(value):
        return ", ".join(f"{field.name} {_text(getattr(value, field.name))}" for field in fields(value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _first_sentence(text: str) -> str:
    return text.split(". ")[0].rstrip(".")


def field_docstrings(kind: type) -> dict[str, str]:
    """The docstring below each field of a dataclass, on one line; fields of its bases too."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        tree = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
                found[field.target.id] = " ".join(str(ast.literal_eval(below.value)).split())
    return found
