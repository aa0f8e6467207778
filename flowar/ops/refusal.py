"""Errors of the ops for arguments that they do not take: a ValueError, whatever torch makes of them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

from torch import Tensor

from flowar.errors import FlowARError, first_line, shown

Op = TypeVar("Op", bound=Callable[..., Any])

EXPECTED = {
    "Tensor": "a tensor",
    "Sequence[Tensor]": "a list of tensors",
    "int": "an integer",
    "float": "a number",
    "str": "a name",
}
# What arguments of a wrong type or shape raise, in the kernels' checks and in plain PyTorch.
CAUSES = (RuntimeError, TypeError, AttributeError, ValueError, IndexError, OverflowError)


class ArgumentError(FlowARError, RuntimeError):
    """An argument that an op does not take. It is a RuntimeError too, as errors of torch's own ops are."""


def refusing(op: Op) -> Op:
    """Have an op raise an ArgumentError for arguments that it does not take."""

    @functools.wraps(op)
    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return op(*arguments, **options)
        except CAUSES as error:
            raise refusal(op, arguments, options, error) from error

    return cast(Op, call)


def refusal(op: Callable[..., Any], arguments: Sequence[Any], options: dict[str, Any], error: Exception) -> Exception:
    """The error to raise for one of `CAUSES`: what is wrong with the arguments, or `error` itself if nothing is known.

    Only a call that failed looks at the types of its arguments, as every call costs host time.
    """
    name = op.__name__.lstrip("_")
    if isinstance(error, FlowARError):
        return error
    for argument, annotation, value in named(op, arguments, options):
        expected = EXPECTED.get(annotation.removesuffix(" | None"))
        if expected and not (value is None and annotation.endswith("None")) and not is_of(value, annotation):
            return ArgumentError(f"{name}: {argument}: expected {expected}, got {shown(value)}")
    if str(error).startswith(f"flowar::{name}: "):  # a check of the kernel's
        return ArgumentError(first_line(error).removeprefix("flowar::"))
    shapes = [list(each.shape) for each in (*arguments, *options.values()) if isinstance(each, Tensor)]
    no_such_dtype = isinstance(error, NotImplementedError) and "not implemented for '" in str(error)
    if type(error) in CAUSES or no_such_dtype:  # none of their other subclasses, such as that for memory which is out
        return ArgumentError(f"{name}: expected arguments that fit together, got shapes {shapes} ({first_line(error)})")
    return error


def named(op: Callable[..., Any], arguments: Sequence[Any], options: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield name, annotation and value of every argument of a call, as far as it has the op's signature."""
    signature = inspect.signature(op)
    try:
        values = signature.bind(*arguments, **options).arguments
    except TypeError:
        return
    for name, value in values.items():
        yield name, str(signature.parameters[name].annotation), value


def is_of(value: Any, annotation: str) -> bool:
    """Whether a value is of one of the types that ops take."""
    if annotation == "Sequence[Tensor]":
        return isinstance(value, (list, tuple)) and all(isinstance(each, Tensor) for each in value)
    types: dict[str, Any] = {"Tensor": Tensor, "int": int, "float": (int, float), "str": str}
    return isinstance(value, types[annotation.removesuffix(" | None")]) and not isinstance(value, bool)
