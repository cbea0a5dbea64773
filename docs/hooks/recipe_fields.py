"""The fields of a recipe, from the dataclasses: name, type, default, bounds, docstring."""

import ast
import dataclasses
import inspect
import itertools
import json
import sys
import types
import typing
from collections.abc import Iterator
from typing import Any

from tables import code, plain, table

from tenfold.registry import Registry
from tenfold.training.recipe import Recipe
from tenfold.training.recipes import RECIPES
from tenfold.training.spec import Spec

BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "length ≥", "max_length": "length ≤"}
UNBOUNDED = 1e38  # a bound that only keeps infinity out


def reference() -> str:
    """A section for the recipe, for each dataclass in it, and for each registered part, such as a network."""
    found: dict[type, str] = {Recipe: ""}
    _collect(Recipe, "", found)
    own = [
        _section(cls, f"`{path.rstrip('.')}`: {cls.__name__}" if path else "Recipe", path)
        for cls, path in found.items()
    ]
    return "\n".join([*own, *(_section(cls, f"{kind.capitalize()} `{name}`") for kind, name, cls in _registered())])


def recipes() -> str:
    """The named recipes side by side: the fields in which they differ."""
    plain_recipes = {name: _flat(json.loads(recipe.to_json())) for name, recipe in RECIPES.items()}
    order = [field.name for field in dataclasses.fields(Recipe)]
    fields = dict.fromkeys(field for flat in plain_recipes.values() for field in flat)
    rows = []
    for field in sorted(fields, key=lambda field: order.index(field.partition(".")[0])):
        values = [_show(flat.get(field, "")) for flat in plain_recipes.values()]
        if field != "name" and len(set(values)) > 1:
            rows.append([code(field), *map(code, values)])
    return table(["field", *map(code, plain_recipes)], rows)


def _registered() -> Iterator[tuple[str, str, type]]:
    """Kind, name and class of all that recipes name: found in whatever modules the recipes have imported."""
    modules = [module for name, module in sorted(sys.modules.items()) if name.startswith("tenfold.training")]
    registries = {
        id(value): value for module in modules for value in vars(module).values() if isinstance(value, Registry)
    }
    for registry in registries.values():
        for name in registry.names():
            cls = registry.find(name)
            if inspect.isclass(cls) and issubclass(cls, Spec):
                yield registry.kind, name, cls


def _collect(cls: type, path: str, found: dict[type, str]) -> None:
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        for inner in _dataclasses(hints[field.name]):
            if inner not in found:
                several = typing.get_origin(_bare(hints[field.name])) is tuple
                found[inner] = f"{path}{field.name}{'.N' if several else ''}."
                _collect(inner, found[inner], found)


def _dataclasses(hint: Any) -> list[type]:
    if inspect.isclass(hint) and dataclasses.is_dataclass(hint) and not issubclass(hint, Spec):
        return [hint]
    return [inner for arg in typing.get_args(hint) for inner in _dataclasses(arg)]


def _section(cls: type, title: str, path: str = "") -> str:
    hints, docs = typing.get_type_hints(cls, include_extras=True), _attribute_docs(cls)
    rows = []
    for field in dataclasses.fields(cls):
        kind, bounds = code(_type(hints[field.name])), ", ".join(_bounds(hints[field.name]))
        rows.append((code(path + field.name), kind, _default(field), bounds, plain(docs.get(field.name, ""))))
    text = plain((inspect.getdoc(cls) or "").partition("\n\n")[0])
    return f"## {title}\n\n{text}\n\n{table(('field', 'type', 'default', 'bounds', 'meaning'), rows)}"


def _bare(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint


def _type(hint: Any) -> str:
    hint = _bare(hint)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " or ".join(map(repr, args)).replace("'", '"')
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_type, args))
    if origin is tuple:
        return f"list of {_type(args[0])}"
    if inspect.isclass(hint) and issubclass(hint, Spec):
        return "object with a name"
    names = {"str": "text", "int": "integer", "float": "number", "bool": "true or false", "NoneType": "null"}
    return names.get(getattr(hint, "__name__", str(hint)), getattr(hint, "__name__", str(hint)))


def _bounds(hint: Any) -> list[str]:
    """Bounds that pydantic checks, as `≥ 0`."""
    if typing.get_origin(hint) is not typing.Annotated:
        return []
    marks = [mark for extra in typing.get_args(hint)[1:] for mark in (extra, *getattr(extra, "metadata", ()))]
    values = [(sign, getattr(mark, name, None)) for mark in marks for name, sign in BOUNDS.items()]
    return [f"{sign} {value:,g}" for sign, value in values if value is not None and value < UNBOUNDED]


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return code(_show(field.default))
    return "" if field.default_factory is dataclasses.MISSING else code(_show(field.default_factory()))


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_show, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _flat(value: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Nested values by dotted name; lists of objects by number."""
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        if isinstance(inner, dict):
            flat |= _flat(inner, f"{path}{name}.")
        elif isinstance(inner, tuple | list) and inner and isinstance(inner[0], dict):
            for number, item in enumerate(inner):
                flat |= _flat(item, f"{path}{name}.{number}.")
        else:
            flat[path + name] = inner
    return flat


def _attribute_docs(cls: type) -> dict[str, str]:
    """The string below each attribute of a class, by the attribute's name."""
    (body,) = [node.body for node in ast.parse(inspect.getsource(cls)).body if isinstance(node, ast.ClassDef)]
    return {
        node.target.id: str(below.value.value)
        for node, below in itertools.pairwise(body)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
    }
