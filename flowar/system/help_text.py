"""What `flowar COMMAND --help` prints: options with their values as people write them."""

from __future__ import annotations

import dataclasses
import types
from argparse import Action
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse
from jsonargparse import DefaultHelpFormatter

from flowar.system.fields import is_fixed, parted

VALUES = {bool: "{true,false}", int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}
OWN_WORDS = {
    "config": "YAML file with options; those on the command line win",
    "print_config": "print all options in YAML, as --config reads them, and exit",
}
GROUP = "YAML file with the options of this group"


class PlainHelp(DefaultHelpFormatter):  # type: ignore[misc]
    """Shows of every option the name, what its values look like, its meaning, and the default if it has one."""

    def _format_action(self, action: Action) -> str:
        if action.dest.endswith(".help"):  # of a dataclass that may be left out, whose options stand below it
            return ""
        return "".join(map(super()._format_action, [action, *options_within(action)]))

    def _format_action_invocation(self, action: Action) -> str:
        names = [name for name in action.option_strings if not name.endswith("+")]  # which jsonargparse adds
        return f"{', '.join(names)} {self._value(action)}".rstrip()

    def _value(self, action: Action) -> str:
        hint = getattr(action, "_typehint", None)
        if hint is None:
            return "FILE" if reads_file(action) else ""
        return f"[{value_of(hint)}]" if action.nargs == "?" else value_of(hint)

    def _expand_help(self, action: Action) -> str:
        meaning = OWN_WORDS.get(action.dest, GROUP if reads_file(action) else action.help or "")
        default = written(action.default) if hasattr(action, "_typehint") else ""
        notes = ["required"] * action.required + [f"default: {default}"] * bool(default)
        return f"{meaning} ({', '.join(notes)})" if notes else meaning


def reads_file(action: Action) -> bool:
    """Whether an option is not a value itself, but the YAML file of others."""
    return action.nargs != 0 and action.dest != "print_config" and not hasattr(action, "_typehint")


def options_within(action: Action) -> Iterator[Action]:
    """The options of a dataclass that may be left out, which the parser does not know one by one."""
    hint = getattr(action, "_typehint", None)
    kind: Any = next(filter(dataclasses.is_dataclass, (hint, *get_args(hint))), None)
    if kind is None:
        return
    meanings = {each.arg_name: each.description or "" for each in parse(kind.__doc__ or "").params}
    for field in dataclasses.fields(kind):
        needed = field.default is field.default_factory is dataclasses.MISSING
        default = None if field.default is dataclasses.MISSING else field.default
        names, meaning = [f"--{action.dest}.{field.name}"], meanings[field.name]
        option = Action(names, field.name, default=default, required=needed, help=meaning)
        option._typehint = get_type_hints(kind)[field.name]  # type: ignore[attr-defined]
        yield option


def value_of(hint: Any) -> str:
    """What a value of this type looks like on the command line."""
    base, _ = parted(hint)
    kind, parts = get_origin(base) or base, [part for part in get_args(base) if part is not type(None)]
    if kind in (Union, types.UnionType):
        return "|".join(value_of(part) for part in parts if part is not list)  # of words, which text says as well
    if kind is Literal:
        return "{" + ",".join(map(str, parts)) + "}"
    if kind is tuple and is_fixed(base):
        return f"[{','.join(map(value_of, parts))}]"
    if kind in (list, tuple, Sequence):
        return f"[{value_of(parts[0]) if parts else 'ITEM'},...]"
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return "{NAME: VALUE,...}"
    return "FILE" if dataclasses.is_dataclass(kind) else VALUES.get(kind, "VALUE")


def written(default: Any) -> str:
    """A default as it is typed; nothing where the model, the data or nobody has one."""
    if default is None or default in ((), "") or dataclasses.is_dataclass(default):
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return f"[{', '.join(map(written, default))}]" if isinstance(default, (list, tuple)) else str(default)
