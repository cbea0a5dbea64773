"""The command line as Typer has it: commands, options, environment variables; and the exit codes of the errors."""

import inspect
from collections.abc import Iterator
from typing import Any

import typer
from tables import code, plain, table

from tenfold import errors
from tenfold.cli import app


def reference() -> str:
    """Every command with its usage, arguments and options."""
    return "\n".join(_section(words, command) for words, command in _commands())


def variables() -> str:
    """Variables that stand for options, with the options and the commands that have them."""
    found: dict[str, tuple[set[str], list[str]]] = {}
    for words, command in _commands():
        for parameter in command.params:
            for name in _variables(parameter):
                options, commands = found.setdefault(name, (set(), []))
                options.add(code(_flags(parameter)))
                commands.append(code(words))
    rows = ((code(name), ", ".join(sorted(found[name][0])), ", ".join(found[name][1])) for name in sorted(found))
    return table(("variable", "option", "commands"), rows)


def exit_codes() -> str:
    """Exit codes with the errors that have them and what these mean."""
    own = [kind for kind in vars(errors).values() if inspect.isclass(kind) and "exit_code" in vars(kind)]
    rows = ((str(kind.exit_code), code(kind.__name__), plain(inspect.getdoc(kind) or "")) for kind in own)
    return table(("code", "exception", "meaning"), sorted(rows, key=lambda row: int(row[0])))


def _commands() -> Iterator[tuple[str, Any]]:
    """Each command that does something, in the order of the help: its words, and the command."""
    return _below("tenfold", typer.main.get_command(app))


def _below(words: str, command: Any) -> Iterator[tuple[str, Any]]:
    below = getattr(command, "commands", None)
    if below is None:
        yield words, command
        return
    for name, inner in below.items():
        if not inner.hidden:
            yield from _below(f"{words} {name}", inner)


def _section(words: str, command: Any) -> str:
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    usage = " ".join([words, *(_argument(argument) for argument in arguments), "[OPTIONS]" if options else ""])
    parts = [f"## {words}", plain(inspect.cleandoc(command.help or "")), f"```text\n{usage.rstrip()}\n```"]
    if arguments:
        rows = ((code(_argument(a)), plain(getattr(a, "help", "") or "")) for a in arguments)
        parts.append(table(("argument", "meaning"), rows))
    if options:
        parts.append(table(("option", "value", "default", "meaning"), map(_option, options)))
    return "\n\n".join(parts) + "\n"


def _argument(argument: Any) -> str:
    name = (argument.metavar or argument.name.upper()).strip("[]{}")
    many = "…" if argument.nargs != 1 and "…" not in name else ""
    return f"{name}{many}" if argument.required else f"[{name}{many}]"


def _option(option: Any) -> tuple[str, str, str, str]:
    meaning = plain(option.help or "")
    if names := _variables(option):
        meaning += f" Variable: {', '.join(map(code, names))}."
    return code(_flags(option)), code(_value(option)), code(_default(option)), meaning


def _flags(option: Any) -> str:
    return ", ".join([*option.opts, *option.secondary_opts])


def _value(option: Any) -> str:
    if option.is_flag:
        return ""
    if option.metavar:
        return str(option.metavar)
    bare = option.type_descriptor.annotation
    choices = getattr(bare, "__args__", ()) if getattr(bare, "__origin__", None) is not list else ()
    kind = "|".join(map(str, choices)) if choices and all(isinstance(c, str) for c in choices) else _type_name(bare)
    bounds = [f"≥ {option.min}" if option.min is not None else "", f"≤ {option.max}" if option.max is not None else ""]
    return ", ".join([kind, *filter(None, bounds)])


def _type_name(annotation: Any) -> str:
    inner = [arg for arg in getattr(annotation, "__args__", ()) if arg is not type(None)]
    kind = inner[0] if inner else annotation
    names = {"str": "text", "int": "integer", "float": "number", "Path": "path"}
    name = getattr(kind, "__name__", str(kind))
    return names.get(name, name)


def _default(option: Any) -> str:
    if option.default is None or option.default == [] or option.default == ():
        return ""
    if option.is_flag:
        return {True: option.opts[0], False: ""}[bool(option.default)]
    return str(getattr(option.default, "value", option.default))


def _variables(parameter: Any) -> tuple[str, ...]:
    names = parameter.envvar or ()
    return (names,) if isinstance(names, str) else tuple(names)
