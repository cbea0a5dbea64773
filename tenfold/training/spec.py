"""Parts of a recipe that say their own name: which network, which augmentations.

In JSON such a part is an object with `name` and the fields of the class that is registered under that name, strictly:
an unknown field or a value of the wrong type is named, not ignored.
"""

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar

import pydantic
import pydantic_core
from pydantic import Field, TypeAdapter

from tenfold.errors import UsageError, did_you_mean
from tenfold.registry import Registry

STRICT = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)
Positive = Annotated[int, Field(ge=1)]
Width = Annotated[int, Field(ge=1, le=4096)]
Share = Annotated[float, Field(ge=0, le=1)]


class Owner(NamedTuple):
    """What has `fields`, as errors call it. or_else: what helps, too, where one is missing."""

    name: str
    fields: Sequence[str] = ()
    or_else: str = ""


class Spec:
    """Base of what is registered: plain data under a name."""

    name: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """Name and fields as JSON."""
        return {"name": self.name} | TypeAdapter(type(self)).dump_python(self, mode="json")


S = TypeVar("S", bound=Spec)


def register_spec(registry: Registry[Any], name: str, spec: type[S]) -> type[S]:
    """Make a class a strict, frozen dataclass of its annotated fields, and register it under `name`."""
    spec.name = name
    made: type[S] = pydantic.dataclasses.dataclass(frozen=True, config=STRICT)(spec)  # type: ignore[assignment]
    registry.add(name, made, spec.__module__)
    return made


def read_spec(registry: Registry[type[S]], value: Any, base: type[S], field: str, default: str = "") -> S:
    """Make what is registered of an object with name and fields; a `base` is returned as it is.

    field: how the recipe calls it, for errors. default: the name of an object without one. Raises `ValueError` whose
    text begins with the wrong field, as validators of pydantic do.
    """
    if isinstance(value, base):
        return value
    if not isinstance(value, dict):
        raise ValueError(f"{field}: must be an object with a name")
    try:
        spec = registry.find(str(value.get("name", default)))
    except UsageError as error:
        raise ValueError(f"{field}.name: {error}") from error
    fields = {name: content for name, content in value.items() if name != "name"}
    try:
        made: S = TypeAdapter(spec).validate_json(json.dumps(fields), strict=True)
    except pydantic.ValidationError as error:
        owner = Owner(f"{registry.kind} {spec.name!r}", names_of_fields(spec))
        raise ValueError(first_error(error, field, [owner])) from error
    return made


def names_of_fields(cls: Any) -> list[str]:
    """The fields of a dataclass."""
    return [field.name for field in dataclasses.fields(cls)]


def first_error(error: pydantic.ValidationError, above: str = "", owners: Sequence[Owner] = ()) -> str:
    """The first thing that is wrong, as `network.widths.1: Input should be …`.

    above: the dotted name of what the error is within. owners: what has fields, the outermost first; these may be
    suggested.
    """
    first, *others = error.errors(include_url=False)
    if first["type"] == "missing":  # perhaps for a misspelt one, which is reported last
        first = next((other for other in others if other["type"] == "unexpected_keyword_argument"), first)
    if first["type"] == "value_error":  # raised by a validator of ours, which names its field
        return first["msg"].removeprefix("Value error, ")
    place = ".".join([above] * bool(above) + [str(part) for part in first["loc"]])
    return f"{place or 'file'}: {_message(first, owners)}"


def _message(error: pydantic_core.ErrorDetails, owners: Sequence[Owner]) -> str:
    """What is wrong, and what may have been meant where a field, or one of its choices, is misspelt."""
    owner = owners[min(len(error["loc"]), len(owners)) - 1] if owners else Owner("this")
    if error["type"] == "literal_error":
        return error["msg"] + did_you_mean(error["input"], re.findall("'([^']*)'", error["ctx"]["expected"]))
    if error["type"] == "unexpected_keyword_argument":
        hint = did_you_mean(str(error["loc"][-1]), owner.fields) or ": leave it out"
        return f"{owner.name} has no such field{hint}"
    if error["type"] == "missing":
        return f"it is missing: {owner.name} has to have it{owner.or_else}"
    return error["msg"]
