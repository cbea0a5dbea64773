"""The space of a search: which of a recipe's fields it may change, and to what."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pydantic
from pydantic import Discriminator, Field, Tag, TypeAdapter
from pydantic.dataclasses import dataclass

from tenfold.console import log_info
from tenfold.errors import UsageError
from tenfold.files import parse_object, to_utf8
from tenfold.training.aliases import current_field
from tenfold.training.recipe import Recipe
from tenfold.training.spec import STRICT

if TYPE_CHECKING:
    import optuna

DEFAULT_SPACE = Path(__file__).parent / "space.json"


@dataclass(frozen=True, config=STRICT)
class Range:
    """Numbers from low to high, whole ones where the recipe's are; `log`: evenly in their logarithms."""

    low: float
    high: float
    log: bool = False

    @pydantic.model_validator(mode="after")
    def _is_a_range(self) -> "Range":
        if not (0 if self.log else -math.inf) < self.low < self.high:
            raise ValueError("low must be less than high, and above 0 with log")
        return self


@dataclass(frozen=True, config=STRICT)
class Choices:
    """Any of these values, as they would stand in a recipe file."""

    choices: Annotated[list[Any], Field(min_length=2)]


def _kind(value: Any) -> str:
    return "choices" if isinstance(value, dict) and "choices" in value else "range"


Domain = Annotated[Annotated[Range, Tag("range")] | Annotated[Choices, Tag("choices")], Discriminator(_kind)]
Space = dict[str, Range | Choices]
_SPACE: TypeAdapter[Space] = TypeAdapter(Annotated[dict[str, Domain], Field(min_length=1)])


def read_space(path: Path, recipe: Recipe) -> Space:
    """Read a file of fields (dotted, as `stages.0.learning_rate`) and their ranges or choices.

    Raises `UsageError` that names the field: unknown, or with an end or choice that the recipe does not allow.
    """
    try:
        space = _SPACE.validate_json(to_utf8(path.read_bytes()), strict=True)
    except OSError as error:
        raise UsageError(f"cannot read space {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: begins as {error.encoding} text, but is not: save it as UTF-8") from error
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ": ".join(map(str, first["loc"][:1] + first["loc"][2:])) or "file"  # without the tag
        raise UsageError(f"{path}: {where}: {first['msg'].removeprefix('Value error, ')}") from error
    _check_space(space, recipe, path)
    return space


def find_space(asked: Space, recipe: Recipe, settings: Path) -> Space:
    """The space of the search with these `settings`, where that is `asked` by other names, or `asked` the default one.

    The default space may have been another when the search was started: a search keeps its own, with its names. Raises
    `UsageError` where that fits the recipes of today no more.
    """
    try:
        stored_space = parse_object(settings.read_bytes()).get("space")
    except (OSError, ValueError):  # said by who opens the search
        return asked
    if stored_space == {name: asdict(domain) for name, domain in asked.items()}:
        return asked
    stored = _parse_space(stored_space, recipe, settings)
    if _with_current_names(stored) == _with_current_names(asked):
        return stored
    if asked != read_space(DEFAULT_SPACE, recipe):
        return asked
    log_info(f"searching the space that {settings} was started with")
    return stored


def _parse_space(value: Any, recipe: Recipe, path: Path) -> Space:
    try:
        space = _SPACE.validate_json(json.dumps(value), strict=True)
    except pydantic.ValidationError as error:
        raise UsageError(f"{path}: its space is damaged: choose another --out") from error
    _check_space(space, recipe, path)
    return space


def _with_current_names(space: Space) -> Space:
    return {current_field(name): domain for name, domain in space.items()}


def _check_space(space: Space, recipe: Recipe, path: Path) -> None:
    for name, domain in space.items():
        for value in _ends(domain, _get(recipe, name, path)):
            with_fields(recipe, {name: value}, f"{path}: {name} = {json.dumps(value)}")


def _ends(domain: Range | Choices, like: Any) -> list[Any]:
    if isinstance(domain, Choices):
        return domain.choices
    return [int(end) if isinstance(like, int) and end == int(end) else end for end in (domain.low, domain.high)]


def _get(recipe: Recipe, name: str, path: Path) -> Any:
    value = json.loads(recipe.to_json())
    for part in current_field(name).split("."):
        try:
            value = value[int(part) if isinstance(value, list) else part]
        except (KeyError, IndexError, ValueError, TypeError):
            raise UsageError(f"{path}: {name}: the recipe {recipe.name} has no such field") from None
    return value


def with_fields(recipe: Recipe, fields: Mapping[str, Any], source: str = "trial") -> Recipe:
    """The recipe with these fields (dotted names) changed. Raises `UsageError` where it is none then."""
    values = json.loads(recipe.to_json())
    for name, value in fields.items():  # files and searches of before have the names of before
        *above, last = current_field(name).split(".")
        inner = values
        for part in above:
            inner = inner[int(part) if isinstance(inner, list) else part]
        inner[int(last) if isinstance(inner, list) else last] = value
    return Recipe.from_json(json.dumps(values), source)


def suggest(trial: "optuna.Trial", recipe: Recipe, space: Space) -> dict[str, Any]:
    """Draw a value for every field; choices go through Optuna as JSON, since it stores no lists."""
    fields: dict[str, Any] = {}
    for name, domain in space.items():
        if isinstance(domain, Choices):
            options = [json.dumps(choice) for choice in domain.choices]
            fields[name] = json.loads(trial.suggest_categorical(name, options))
        elif isinstance(_get(recipe, name, DEFAULT_SPACE), int):
            fields[name] = trial.suggest_int(name, int(domain.low), int(domain.high), log=domain.log)
        else:
            fields[name] = trial.suggest_float(name, domain.low, domain.high, log=domain.log)
    return fields


def fields_of(trial: "optuna.trial.FrozenTrial", space: Space) -> dict[str, Any]:
    """The fields that a trial was drawn with, as they stand in its recipe."""
    chosen = {name: isinstance(domain, Choices) for name, domain in space.items()}
    return {name: json.loads(value) if chosen[name] else value for name, value in trial.params.items()}
