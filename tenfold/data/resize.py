"""How images of other shapes are brought to a square (`image.resize_pixels`), and the modes' names in old files."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

Resize = Literal["stretch", "center_crop", "pad"]
RESIZES: tuple[Resize, ...] = get_args(Resize)
OLD_RESIZES: dict[str, Resize] = {"squash": "stretch", "crop": "center_crop"}
"""Names in runs, model files, benches, searches and scripts of before: old name, name now."""


def names_of(resize: str) -> tuple[str, ...]:
    """A mode's name, then those that it had."""
    return (resize, *(old for old, name in OLD_RESIZES.items() if name == resize))


def current_resize(value: Any) -> Any:
    """Today's name of a resize mode; anything else unchanged."""
    return OLD_RESIZES.get(value, value) if isinstance(value, str) else value


def with_current_resize(values: dict[str, Any]) -> dict[str, Any]:
    """What an old file keeps, with today's name of its `resize`, if it has one."""
    return values | {"resize": current_resize(values["resize"])} if "resize" in values else values


def with_current_options(words: Sequence[Any]) -> list[Any]:
    """The words of a command, with today's name of the mode after `--resize`."""
    return [
        current_resize(word) if before == "--resize" else word
        for before, word in zip([None, *words], words, strict=False)
    ]
