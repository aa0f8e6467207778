"""Checks of what callers pass to functions of Python. Each raises a FlowARError: what was expected, and what came."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from flowar.errors import FlowARError, UnknownArgumentError, did_you_mean, shown
from flowar.system.rules import expanded

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def known_arguments(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """The same function, which names the nearest argument that it has where it is called with one that it has not.

    Raises:
        UnknownArgumentError: from such a call.
    """
    known = [name for name in signature(function).parameters if name not in ("self", "cls")]
    what = function.__qualname__.removesuffix(".__call__")

    @wraps(function)
    def call(*arguments: Parameters.args, **options: Parameters.kwargs) -> Result:
        check_names(what, options, known)
        return function(*arguments, **options)

    return call


def check_names(what: str, names: Iterable[str], known: Sequence[str]) -> None:
    """Check that `names` of arguments are among those that are `known`."""
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            expected = "an argument that it has" if hint else f"one of {', '.join(known)}"
            raise UnknownArgumentError(f"{what}: expected {expected}, got {name}{hint}")


def check_type(name: str, value: object, types: type | tuple[type, ...], expected: str) -> None:
    """Check that the argument `name` is of one of these types; `expected` has them in words."""
    if not isinstance(value, types):
        raise FlowARError(f"{name}: expected {expected}, got {shown(value)}")


def check_function(name: str, value: object, optional: bool = True) -> None:
    """Check that an argument can be called, or is None where it is `optional`."""
    if not (callable(value) or (optional and value is None)):
        raise FlowARError(f"{name}: expected a function, got {shown(value)}")


def check_integer(name: str, value: Any, least: int = 1, most: float = math.inf) -> int:
    """An argument as an int, if it is an integer from `least` to `most`, numpy's and torch's included."""
    known = {(0, math.inf): "an integer >= 0", (1, math.inf): "a positive integer"}
    expected = known.get((least, most), f"an integer from {least} to {most}")
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or not least <= number <= most:
        raise FlowARError(f"{name}: expected {expected}, got {shown(value)}")
    return number


def check_number(name: str, value: Any, positive: bool = False) -> float:
    """An argument as a float, if it is a finite number, or a `positive` one, numpy's and torch's included."""
    try:
        number = math.nan if isinstance(value, (bool, str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last from tensors of several numbers
        number = math.nan
    if not math.isfinite(number) or (positive and number <= 0):
        raise FlowARError(f"{name}: expected a {'positive' if positive else 'finite'} number, got {shown(value)}")
    return number


def check_path(name: str, value: Any) -> Path:
    """An argument as a path without `~`, if it may be one."""
    if not isinstance(value, (str, os.PathLike)) or not str(value) or "\0" in str(value):
        raise FlowARError(f"{name}: expected a path, got {shown(value)}")
    return expanded(os.fspath(value))


def check_each(name: str, values: Any, check: Callable[[str, Any], object]) -> None:
    """Check every element of an argument that is a list or a tuple."""
    check_type(name, values, Sequence, "a list")
    if isinstance(values, (str, bytes)):
        raise FlowARError(f"{name}: expected a list, got {shown(values)}")
    for number, value in enumerate(values):
        check(f"{name}[{number}]", value)
