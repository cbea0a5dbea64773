"""Recipes by name or from a JSON file, which may name a base and give only the fields that differ."""

import json
from pathlib import Path
from typing import Any

from tenfold.errors import UsageError, did_you_mean
from tenfold.files import expand_home, to_utf8
from tenfold.training.aliases import rename_recipe_fields
from tenfold.training.recipe import BASE, MOST_BYTES, Recipe
from tenfold.training.recipes import RECIPES


def find_recipe(name: str) -> Recipe:
    """Return the named recipe, or read the JSON file of that path.

    A file with `"base": "fast89"` needs only the fields that differ. `network` is merged field by field, unless it
    names another network; all other values replace the base's. Its own name is by default the file's.
    Raises `UsageError` that names the file and the field.
    """
    return RECIPES[name] if name in RECIPES else _read(name, ())


def _read(name: str, parents: tuple[Path, ...]) -> Recipe:
    """Read a recipe file; `parents` are the files whose base it is, outermost first."""
    path = Path(name)
    if path.suffix != ".json":
        hint = "; repeat --recipe for several" if "," in name else did_you_mean(name, RECIPES)
        raise UsageError(f"unknown recipe {name!r}: choose {', '.join(RECIPES)} or a .json file{hint}")
    content = _read_bytes(path, name)
    value = _with_base(content)
    if value is None:
        return Recipe.from_json(content, source=name)
    base = _find_base(value.pop(BASE), path, (*parents, path.resolve()))
    merged = _merge(json.loads(base.to_json()), rename_recipe_fields({"name": path.stem} | value))
    return Recipe.from_json(json.dumps(merged), source=name)


def _read_bytes(path: Path, name: str) -> bytes:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UsageError(f"{name} is too large to be a recipe")
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read recipe {name}: {error.strerror}") from error


def _with_base(content: bytes) -> dict[str, Any] | None:
    """The file's object where it names a base; None for any other content, which `Recipe.from_json` reports on."""
    try:
        value = json.loads(to_utf8(content))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and BASE in value else None


def _find_base(base: Any, path: Path, files: tuple[Path, ...]) -> Recipe:
    if not isinstance(base, str):
        raise UsageError(f"{path}: {BASE}: it must be a recipe's name or the path of a .json file")
    if base in RECIPES:
        return RECIPES[base]
    file = path.parent / expand_home(base)
    if file.suffix != ".json":
        hint = did_you_mean(base, RECIPES)
        raise UsageError(f"{path}: {BASE}: unknown recipe {base!r}: choose {', '.join(RECIPES)} or a .json file{hint}")
    if file.resolve() in files:
        cycle = " → ".join(one.name for one in (*files, file))
        raise UsageError(f"{path}: {BASE}: recipes are based on each other in a cycle: {cycle}")
    return _read(str(file), files)


def _merge(base: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    """The base's fields with those of `value`; a network of the same name keeps the fields that are not given."""
    own, inherited = value.get("network"), base["network"]
    if isinstance(own, dict) and own.get("name", inherited["name"]) == inherited["name"]:
        value = value | {"network": inherited | own}
    return base | value
