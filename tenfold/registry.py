"""Names by which data sets, networks, augmentations, export formats and callbacks are found, and plugins that add some.

Open to every package. A plugin is Python code that registers something when it is imported: an installed package says
so with the entry point group `tenfold.plugins`; a single file needs no packaging and is named in `TENFOLD_PLUGINS`.
Plugins are imported once, when a name is looked up that is not built in: so `--help` and the usual run never wait for
them.
"""

import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from tenfold.console import warn
from tenfold.errors import TenfoldError, UsageError, did_you_mean, one_line
from tenfold.files import expand_home

GROUP = "tenfold.plugins"
"""Entry point group: each entry names a module (or an object in one) to import."""
VARIABLE = "TENFOLD_PLUGINS"
"""Environment variable: modules and paths of Python files, separated as in PATH. Child processes inherit it."""

T = TypeVar("T")


@dataclass(frozen=True)
class _Entry(Generic[T]):
    value: T
    place: str
    """The file, or else the module, that registered it."""


class Registry(Generic[T]):
    """Things of one kind by name, in the order of their registration, built-in ones first.

    kind: what they are, for messages: "data set". home: the module that registers built-in ones, where looking one up
    is to import it: "" where they are there already.
    """

    def __init__(self, kind: str, home: str = ""):
        self.kind = kind
        self.home = home
        self._entries: dict[str, _Entry[T]] = {}

    def add(self, name: str, value: T, module: str) -> T:
        """Register `value`, which `module` defines. Raises `UsageError` where another file has taken the name.

        The same file may register a name again, as a notebook's cell does that is run twice.
        """
        place = _place(module)
        taken = self._entries.get(name)
        if taken and taken.place != place:
            raise UsageError(f"{self.kind} {name!r} is registered twice: by {taken.place} and by {place}")
        self._entries[name] = _Entry(value, place)
        return value

    def find(self, name: str) -> T:
        """What is registered under `name`. Raises `UsageError` that suggests a similar one."""
        if name not in self:
            raise UsageError(self.unknown(name))
        return self._entries[name].value

    def __contains__(self, name: object) -> bool:
        if name not in self._entries:
            self._load()
        return name in self._entries

    def names(self) -> tuple[str, ...]:
        """All names, those of plugins too."""
        self._load()
        return tuple(self._entries)

    def _load(self) -> None:
        if self.home:
            importlib.import_module(self.home)
        load_plugins()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def unknown(self, name: str, others: str = "") -> str:
        """The sentence for a name that is not registered; `others`: what else would have been understood."""
        names = self.names()
        known = ", ".join((*names, *([others] if others else [])))
        guess = did_you_mean(name, names) or f"; plugins add others ({VARIABLE})"
        return f"unknown {self.kind} {name!r}; known are {known}{guess}"


def _place(module: str) -> str:
    return getattr(sys.modules.get(module), "__file__", None) or module


# --- plugins -----------------------------------------------------------------------------------------------------

_lock = threading.RLock()  # a plugin may look names up itself while it is loaded
_loaded = False


def load_plugins() -> None:
    """Import all plugins, once per process; one that fails is named in a warning and left out.

    Raises `UsageError` where two register the same name.
    """
    global _loaded
    with _lock:
        if _loaded:
            return
        _loaded = True
        try:
            for label, load in _plugins():
                _try_to_load(label, load)
        except TenfoldError:
            _loaded = False
            raise


def _plugins() -> Iterator[tuple[str, Callable[[], object]]]:
    """What messages call each plugin, and how to import it."""
    from importlib.metadata import entry_points  # here, because it takes as long as all other imports together

    for point in entry_points(group=GROUP):
        yield f"{point.name} ({point.value})", point.load
    for name in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        yield name, lambda name=name: _import(name)  # type: ignore[misc]


def _try_to_load(label: str, load: Callable[[], object]) -> None:
    try:
        load()
    except TenfoldError:
        raise
    except Exception as error:
        if os.environ.get("TENFOLD_DEBUG"):
            raise
        warn(f"plugin {label} is left out: {type(error).__name__}: {one_line(error)}")


def _import(name: str) -> object:
    """Import a module by its dotted name or a Python file by its path."""
    if not name.endswith(".py"):
        return importlib.import_module(name)
    path = Path(expand_home(name)).absolute()
    key = str(path)  # as the module's name: files of one name in two folders stay apart
    spec = importlib.util.spec_from_file_location(key, path)
    assert spec and spec.loader
    module = sys.modules[key] = importlib.util.module_from_spec(spec)  # before it runs, as dataclasses want it
    spec.loader.exec_module(module)
    return module
