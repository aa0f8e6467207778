"""What fields may hold: types and rules, declared at the field, and one check of them all.

    @dataclass
    @checks_fields
    class Options:
        output: Path
        batch_size: Count = 64
        lr: Annotated[float, Range(0, 10, "(]")] = 2e-4

Declarations in a `TypedDict` check what is read from files likewise.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

from flowar.errors import FlowARError, shown
from flowar.system.rules import Name, Rule, expanded

Kind = TypeVar("Kind")

KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "text", Path: "a path", type(None): "none"}


def checks_fields(kind: type[Kind]) -> type[Kind]:
    """A class that is to be a dataclass, whose fields `check_fields` checks before anything else does."""
    more = getattr(kind, "__post_init__", None)

    def __post_init__(self: Kind) -> None:
        check_fields(self)
        if more is not None:
            more(self)

    kind.__post_init__ = __post_init__  # type: ignore[attr-defined]
    return kind


def check_fields(record: Any) -> None:
    """Check that the fields of a dataclass are what their declarations say.

    Numbers of numpy and torch become Python's, lists in the place of tuples become these, and paths are without `~`.

    Raises:
        FlowARError: for any other value, naming the field, what was expected and what came.
    """
    kind: Any = type(record)
    for name, hint in declarations(kind).items():
        value = getattr(record, name)
        found = checked(value, hint, name)
        if found is not value:
            object.__setattr__(record, name, found)  # the dataclass may be frozen


@functools.cache
def declarations(kind: Any) -> dict[str, Any]:
    """The declared types of the fields of a dataclass or a `TypedDict`."""
    hints = get_type_hints(kind, include_extras=True)
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    return {field.name: hints[field.name] for field in fields} or hints


def checked(value: Any, hint: Any, name: str = "") -> Any:
    """`value`, and all that it holds, if it is of type `hint`.

    Args:
        value: anything. Numbers and arrays of numpy and torch count as Python's numbers and lists.
        hint: a type as annotations have them, with rules in `Annotated`.
        name: what messages call the value.

    Raises:
        FlowARError: for another value, naming it, what was expected and what came.
    """
    if hint is Any:
        return value
    value = value.tolist() if hasattr(value, "tolist") else value
    base, rule = parted(hint)
    kind, parts = get_origin(base) or base, get_args(base)
    if rule is not None:
        return following(value, kind, rule, name)
    if kind in (Union, types.UnionType):
        return one_of(value, base, name)
    if is_typeddict(kind):
        return with_fields(value, kind, name)
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return mapping(value, parts or (str, Any), name)
    if kind in (list, tuple, Sequence):
        return sequence(value, base, name)
    if not is_a(value, kind, parts):
        refuse(value, base, name)
    return expanded(value) if kind is Path else value


def parted(hint: Any) -> tuple[Any, Rule | None]:
    """The type itself and the rule, if there is one."""
    return get_args(hint)[:2] if get_origin(hint) is Annotated else (hint, None)  # type: ignore[return-value]


def is_a(value: Any, kind: Any, parts: Sequence[Any] = ()) -> bool:
    """Whether a value is of a plain type. True is no number; numbers are finite, and integers have at most 64 bits."""
    if kind is Literal:
        return any(value == part and type(value) is type(part) for part in parts)
    if kind is Callable:
        return callable(value)
    if kind is float and isinstance(value, float):
        return math.isfinite(value)
    if kind in (int, float):
        return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**64
    return isinstance(value, (str, Path) if kind is Path else kind)


def following(value: Any, kind: Any, rule: Rule, name: str) -> Any:
    """`value`, if it is of a plain type and follows the rule."""
    try:
        if is_a(value, kind) or (kind is float and isinstance(value, float)):
            return rule.fitting(value)
    except FlowARError:
        raise
    except ValueError:
        pass
    raise FlowARError(f"{label(name)}expected {rule.expected(kind)}, got {rule.got(value)}")


def one_of(value: Any, hint: Any, name: str) -> Any:
    """`value`, if it is of one of several types; messages do not speak of None."""
    if value is None and type(None) in get_args(hint):
        return None
    others = [part for part in get_args(hint) if part is not type(None)]
    if len(others) == 1:
        return checked(value, others[0], name)
    for part in others:
        try:
            return checked(value, part, name)
        except FlowARError:
            continue
    return refuse(value, hint, name)


def sequence(value: Any, hint: Any, name: str) -> Any:
    """`value`, if it is a list, a tuple or a range of what is declared; a tuple if that is declared, or came."""
    kind, parts = get_origin(hint) or hint, get_args(hint) or (Any,)
    if not isinstance(value, (list, tuple, range)) or (is_fixed(hint) and len(value) != len(parts)):
        return refuse(value, hint, name)
    hints = parts if is_fixed(hint) else parts[:1] * len(value)
    found = [checked(each, hint, f"{name}[{i}]") for i, (each, hint) in enumerate(zip(value, hints, strict=True))]
    return found if isinstance(value, list) and kind is not tuple else tuple(found)


def is_fixed(hint: Any) -> bool:
    """Whether a type is that of tuples of one length."""
    return get_origin(hint) is tuple and get_args(hint)[1:] != (Ellipsis,)


def mapping(value: Any, parts: Sequence[Any], name: str) -> dict[str, Any]:
    """`value` as a dict, if it maps names to values, of the types of the two `parts`."""
    if not isinstance(value, Mapping):
        refuse(value, Mapping, name)
    for key in value:
        checked(key, Name if parts[0] is str else parts[0], f"{label(name)}a name")
    return {key: checked(each, parts[1], member(name, key)) for key, each in value.items()}


def with_fields(value: Any, kind: Any, name: str) -> dict[str, Any]:
    """`value` as a dict, if it has the fields of a `TypedDict`, or more."""
    found = mapping(value, (str, Any), name)
    for field, hint in declarations(kind).items():
        if field in found:
            found[field] = checked(found[field], hint, member(name, field))
        elif field in kind.__required_keys__:
            raise FlowARError(f"{label(name)}expected {field}, found {', '.join(found) or 'nothing'}")
    return found


def refuse(value: Any, hint: Any, name: str) -> Any:
    """Raise the error for a value that is not of type `hint`."""
    raise FlowARError(f"{label(name)}expected {in_words(hint)}, got {shown(value)}")


def in_words(hint: Any) -> str:
    """A type in words."""
    base, rule = parted(hint)
    kind, parts = get_origin(base) or base, get_args(base)
    if rule is not None:
        return rule.expected(base)
    if kind in (Union, types.UnionType):
        return " or ".join(in_words(part) for part in parts if part is not type(None))
    if kind is Literal:
        return " or ".join(map(str, parts))
    if kind in (list, tuple, Sequence):
        return f"a list of {len(parts)}" if is_fixed(base) else "a list"
    if is_typeddict(kind) or (isinstance(kind, type) and issubclass(kind, Mapping)):
        return "an object"
    return KINDS.get(kind, getattr(kind, "__name__", "something else"))


def label(name: str) -> str:
    return f"{name}: " if name else ""


def member(name: str, key: str) -> str:
    """What messages call the value at `key` of something."""
    return f"{name}.{key}" if name else key
