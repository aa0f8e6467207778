"""Which module and which op was the first to give a number that is not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flowar.errors import TrainingError

UNINITIALIZED = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided")  # memory, not numbers


def trace(model: nn.Module, work: Callable[[], object]) -> str | None:
    """Run `work`, forward and backward through `model`, and look at the result of every op.

    Returns:
        What was found first, in words, or None. It waits for the device after every op: for a step that is known to
        be bad, not for every step.
    """
    try:
        with FiniteOps(model) as mode, mode.module_names():
            work()
    except TrainingError as error:
        return str(error)
    return None


class FiniteOps(TorchDispatchMode):
    """Raises a `TrainingError` at the first op whose result is not finite."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = {module: name or type(model).__name__ for name, module in model.named_modules()}
        self.inside: list[str] = []  # modules whose forward pass is running, the innermost last
        self.behind = ""  # the module whose backward pass has begun last

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = op(*args, **(kwargs or {}))
        name = op.overloadpacket.__name__
        memory = name in UNINITIALIZED or op.is_view  # a view of memory that is yet to be written
        if not memory and not all(map(finite, tree_leaves(results))):
            where = self.inside[-1] if self.inside else f"backward of {self.behind}" if self.behind else "the loss"
            cause = "from finite arguments" if all(map(finite, tree_leaves(args))) else "from arguments that were not"
            shapes = [list(each.shape) for each in tree_leaves(results) if isinstance(each, Tensor)]
            raise TrainingError(f"{where}: op {op.namespace}.{name} gave numbers that are not finite, {cause} {shapes}")
        return results

    @contextmanager
    def module_names(self) -> Iterator[None]:
        """Know, at every op, which module it belongs to."""

        def enter(module: nn.Module, _: Any) -> None:
            self.inside.append(self.names.get(module, type(module).__name__))

        def leave(module: nn.Module, _: Any, output: Any) -> None:
            name = self.inside.pop()
            for each in tree_leaves(output):
                if isinstance(each, Tensor) and each.requires_grad:
                    each.register_hook(lambda _: setattr(self, "behind", name))

        handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def finite(value: Any) -> bool:
    """Whether `value` is no floating tensor, or one of finite numbers."""
    return not isinstance(value, Tensor) or not value.is_floating_point() or bool(torch.isfinite(value).all())
