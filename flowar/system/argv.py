"""The words of a command line, before a parser sees them: shorter ways to write options, made the long ones."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from typing import Any, get_args, get_origin, get_type_hints


def long_form(options: type[Any], arguments: Sequence[str]) -> Sequence[str]:
    """The words after the name of a command with `options`, as its parser reads them."""
    arguments = with_positional(options, [with_underscores(word) for word in arguments])
    return with_optional_flags(options, with_several(getattr(options, "several", None), arguments))


def with_underscores(word: str) -> str:
    """An option's name with underscores for the dashes in it, before its value; any other word as it is."""
    name, equals, value = word.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if word.startswith("--") else word


def with_positional(options: type[Any], arguments: Sequence[str]) -> Sequence[str]:
    """The words before the first option as the value of the option that `options.positional` names, if it names one.

    Of several options that it names, each takes one word.
    """
    name = getattr(options, "positional", None)
    words = list(itertools.takewhile(lambda word: not word.startswith("-"), arguments))
    if not (name and words):
        return arguments
    if isinstance(name, tuple):
        taken = [f"--{each}={word}" for each, word in zip(name, words, strict=False)]
        return [*taken, *arguments[len(taken) :]]
    takes_list = get_origin(get_type_hints(options)[name]) is list
    return [f"--{name}={json.dumps(words) if takes_list else ' '.join(words)}", *arguments[len(words) :]]


def with_optional_flags(options: type[Any], arguments: Sequence[str]) -> Sequence[str]:
    """A flag alone becomes `flag=true` where its dataclass may be left out: the parser does not know its fields."""
    parts = [(name, part) for name, hint in get_type_hints(options).items() for part in get_args(hint)]
    nested = [(name, get_type_hints(part)) for name, part in parts if dataclasses.is_dataclass(part)]
    flags = {f"--{name}.{field}" for name, fields in nested for field, hint in fields.items() if hint is bool}
    pairs = itertools.zip_longest(arguments, arguments[1:], fillvalue="-")
    return [f"{each}=true" if each in flags and following.startswith("-") else each for each, following in pairs]


def with_several(name: str | None, arguments: Sequence[str]) -> Sequence[str]:
    """The words after option `name` as the list that it takes, where the command has such an option."""
    flag = f"--{name}"
    if flag not in arguments:
        return arguments
    first = arguments.index(flag) + 1
    words = list(itertools.takewhile(lambda word: not word.startswith("-"), arguments[first:]))
    rest = arguments[first + len(words) :]
    return [*arguments[: first - 1], f"{flag}={json.dumps(words)}", *rest] if len(words) > 1 else arguments
