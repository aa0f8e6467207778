"""An accelerator that this machine does not have, such as Apple's or Intel's: numbers of the CPU under another name.

It stands for mps, xpu and the like: it has no kernels of this package and no float64, and a tensor of the CPU cannot be
mixed with its own, but for a single number. Importing this file makes it torch's accelerator, for good: in a process of
its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "elsewhere"
COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class Backend(_DummyBackendModule):
    """`torch.elsewhere`, as torch asks it."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


_setup_privateuseone_for_python_backend(NAME, Backend())
DEVICE = torch.device(NAME, 0)


class Elsewhere(Tensor):
    """A tensor whose numbers are those of a tensor of the CPU."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor) -> Elsewhere:
        if numbers.dtype == torch.float64:
            raise TypeError("this device has no float64")
        layout = {"strides": numbers.stride(), "storage_offset": numbers.storage_offset(), "dtype": numbers.dtype}
        with torch.inference_mode(False):  # a view of a tensor that is older than the context must be none of its own
            tensor: Elsewhere = torch.Tensor._make_wrapper_subclass(cls, numbers.shape, device=DEVICE, **layout)
        tensor.numbers = numbers
        return tensor

    def __repr__(self, **_: Any) -> str:
        return f"Elsewhere({self.numbers})"

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(op, args, kwargs or {})


class Factories(TorchDispatchMode):
    """Tensors that are made on the device, rather than computed there."""

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.is_inference_mode_enabled():  # in which an op such as `to`, made of others, comes here as it is
            with self:
                result = op.decompose(*args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        return compute(op, args, kwargs or {})


def compute(op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """`op` on the CPU's numbers; the result is on the device if its arguments are, or if it is asked for there."""
    tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)]
    ours = [each for each in tensors if isinstance(each, Elsewhere)]
    foreign = [each for each in tensors if not isinstance(each, Elsewhere) and each.dim() > 0]
    if ours and foreign and op not in COPIES:
        raise RuntimeError(f"{op}: expected all tensors on {DEVICE}, got one on {foreign[0].device}")
    asked = kwargs.get("device")
    there = bool(ours) if asked is None else torch.device(asked).type == DEVICE.type
    if there and kwargs.get("dtype") == torch.float64:
        raise TypeError("this device has no float64")
    if asked is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    args, kwargs = tree_map(lambda each: each.numbers if isinstance(each, Elsewhere) else each, (args, kwargs))
    if op is torch.ops.aten.copy_.default:
        there = bool(ours) and isinstance(tensors[0], Elsewhere)
    result = op(*args, **kwargs)
    known = {id(each.numbers): each for each in ours}  # an op in place returns its argument

    def named(value: Any) -> Any:
        if id(value) in known:
            return known[id(value)]
        return Elsewhere(value) if there and isinstance(value, Tensor) else value

    return tree_map(named, result)


@contextmanager
def other_device() -> Iterator[torch.device]:
    """Tensors can be made on `DEVICE` in this context."""
    lifting = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor` makes it on the CPU, and then copies it as others are
    try:
        with Factories():
            yield DEVICE
    finally:
        torch._C._set_only_lift_cpu_tensors(lifting)
