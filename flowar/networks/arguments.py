"""Checks of what the networks are given. Each raises a line that says what was expected and what came."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowar.system.arguments import check_integer, check_type
from flowar.system.tensors import check_tensor
from flowar.system.transfer import to_device


def matching_scale(
    x_t: Tensor, t: Tensor, z_k: Tensor, lengths: Sequence[int], widths: tuple[int, int], like: Tensor
) -> int:
    """The scale that has as many tokens as x_t [B, n, c]; t is to be [B], z_k [B, n, D], and `widths` (c, D).

    Raises:
        ValueError: if no scale has n tokens, or for shapes, dtypes or devices that do not fit together, or not `like`
            a parameter.
    """
    check_type("x_t", x_t, Tensor, "a tensor")
    if x_t.dim() != 3 or x_t.shape[1] not in lengths:
        raise ValueError(f"x_t: expected [B, n, c] with n one of {lengths}, got {list(x_t.shape)}")
    check_tensor("x_t", x_t, (*x_t.shape[:2], widths[0]), like)
    check_tensor("t", t, x_t.shape[:1], like)
    check_tensor("z_k", z_k, (*x_t.shape[:2], widths[1]), like)
    return lengths.index(x_t.shape[1])


def check_heads(width: int, heads: int) -> None:
    """Check that attention of a `width` can have so many `heads`, halves of which are rotated in pairs of channels.

    Raises:
        ValueError: naming the argument.
    """
    check_integer("width", width)
    if width % (4 * check_integer("heads", heads)):
        raise ValueError(f"heads: expected a divisor of width / 4 = {width / 4:g}, got {heads}")


def check_labels(class_labels: Tensor | Sequence[int] | int, last: int, device: torch.device) -> Tensor:
    """Labels from 0 to `last` as int64 [B] on `device`.

    Labels that lie on a GPU are checked there, so that nobody waits for it: one out of range then ends the process's
    use of that GPU with a device-side assertion, as an index out of range does. Inside `torch.compile` values are not
    read, which would break the graph: labels out of range then raise what the embedding raises.

    Raises:
        ValueError: unless they are integers in that range, at least one of them.
    """
    expected = f"integers from 0 to {last}"
    try:
        labels = torch.atleast_1d(torch.as_tensor(class_labels))
    except (TypeError, ValueError, RuntimeError) as error:  # what torch raises for words, None or ragged lists
        raise ValueError(f"class_labels: expected {expected}, got {class_labels!r}") from error
    if labels.numel() == 0 or labels.dim() != 1:
        raise ValueError(f"class_labels: expected [B] with B >= 1, got shape {list(labels.shape)}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"class_labels: expected {expected}, got dtype {labels.dtype}")
    if labels.is_meta:
        raise ValueError(f"class_labels: expected {expected}, got a tensor on the meta device, which has none")
    labels = labels.to(torch.int64)
    if labels.device.type != "cpu":
        labels = labels.to(device)
    if labels.device.type == "cuda":
        torch._assert_async(((labels >= 0) & (labels <= last)).all(), f"class_labels: expected {expected}")
    elif not torch.compiler.is_compiling():
        low, high = labels.min().item(), labels.max().item()  # before they go to a GPU, which this would wait for
        if low < 0 or high > last:
            raise ValueError(f"class_labels: expected {expected}, got {low if low < 0 else high}")
    return to_device(labels, device)


def check_optional_labels(
    class_labels: Tensor | Sequence[int | None] | int | None, last: int, device: torch.device, null_class: int
) -> Tensor:
    """Labels as `check_labels` has them, where None, alone or in a list, stands for the null class.

    Raises:
        ValueError: as of `check_labels`.
    """
    given = [None] if class_labels is None else class_labels
    if not isinstance(given, (list, tuple)) or all(each is not None for each in given):
        return check_labels(given, last, device)  # type: ignore[arg-type]
    without = torch.tensor([each is None for each in given])
    labels = check_labels([0 if each is None else each for each in given], last, device)
    return labels.masked_fill(to_device(without, device), null_class)


def without_class(class_labels: Tensor | Sequence[int | None] | int | None) -> bool:
    """Whether all labels are None."""
    if isinstance(class_labels, (list, tuple)):
        return all(each is None for each in class_labels)
    return class_labels is None
