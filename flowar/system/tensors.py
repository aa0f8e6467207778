"""Checks of tensors and dtypes that callers pass. Each raises a FlowARError: what was expected, and what came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowar.errors import FlowARError, shown
from flowar.system.arguments import check_type


def check_floats(name: str, dtype: Any) -> None:
    """Check that an argument is one of torch's floating dtypes."""
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        got = dtype if isinstance(dtype, torch.dtype) else shown(dtype)
        raise FlowARError(f"{name}: expected a floating dtype of torch, got {got}")


def check_tensor(
    name: str, value: Any, shape: Sequence[int | str] | None, like: Tensor | None = None, floating: bool = True
) -> None:
    """Check that an argument is a tensor that fits.

    Args:
        name: the name of the argument.
        value: its value.
        shape: the length of every dimension, or a letter for one that is free; None for any shape.
        like: a tensor whose device it has to have, and whose dtype, outside of autocast.
        floating: whether it has to be floating; otherwise it has to be boolean.
    """
    check_type(name, value, Tensor, "a tensor")
    if shape is not None and not has_shape(value, shape):
        raise FlowARError(f"{name}: expected shape [{', '.join(map(str, shape))}], got {list(value.shape)}")
    if value.is_floating_point() != floating or (not floating and value.dtype != torch.bool):
        raise FlowARError(f"{name}: expected {'floats' if floating else 'booleans'}, got {value.dtype}")
    if like is None:
        if value.is_meta:
            raise FlowARError(f"{name}: expected a tensor with values, got one on the meta device")
        return
    if value.device != like.device:
        raise FlowARError(f"{name}: expected a tensor on {like.device}, got one on {value.device}")
    if floating and value.dtype != like.dtype and not torch.is_autocast_enabled(like.device.type):
        raise FlowARError(f"{name}: expected {like.dtype}, got {value.dtype}")


def has_shape(tensor: Tensor, shape: Sequence[int | str]) -> bool:
    """Whether a tensor has a shape in which letters are free."""
    return tensor.dim() == len(shape) and all(
        isinstance(n, str) or n == m for n, m in zip(shape, tensor.shape, strict=True)
    )
