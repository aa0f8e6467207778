"""A search for the first module and op that gave a number that is not finite."""

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

# What these return is memory, not numbers: the trace writes zeros into it.
ALLOCATIONS = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "empty_permuted")
RESIZES = ("resize_", "resize_as_", "_resize_output_")  # of the memory that they add the same is true
UNDECLARED_VIEWS = ("_unsafe_view",)  # their schemas do not say so


def trace(model: nn.Module, work: Callable[[], object]) -> str | None:
    """Run `work`, forward and backward through `model`, and look at the result of every op.

    Returns:
        A description of the first such result, or None. The trace waits for the device after every op, so it is for a
        step that is known to be bad. Memory that `work` allocates holds zeros until it is written, so that no op is
        blamed for what was there before; neither is a view blamed for the numbers that it shows.
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
        kwargs = kwargs or {}
        name = op.overloadpacket.__name__
        read, written = tensors_of(op, args, kwargs)
        sizes = [each.untyped_storage().nbytes() for each in written]
        finite_arguments = all(map(finite, read))
        results = op(*args, **kwargs)
        if name in ALLOCATIONS:
            for each in tensors(results):
                each.zero_()
        elif name in RESIZES:
            for each, size in zip(written, sizes, strict=True):
                clear_storage(each, size)
        made = written + made_by(op, read, results)
        if not all(map(finite, made)):
            where = self.inside[-1] if self.inside else f"backward of {self.behind}" if self.behind else "the loss"
            cause = "from finite arguments" if finite_arguments else "from arguments that were not"
            shapes = [list(each.shape) for each in made]
            raise TrainingError(f"{where}: op {op.namespace}.{name} gave numbers that are not finite, {cause} {shapes}")
        return results

    @contextmanager
    def module_names(self) -> Iterator[None]:
        """Keep track of the module that runs, forward and backward, in this context."""

        def begin_backward(name: str) -> Callable[[Tensor], None]:
            def hook(_: Tensor) -> None:
                self.behind = name

            return hook

        def enter(module: nn.Module, _: Any) -> None:
            self.inside.append(self.names.get(module, type(module).__name__))

        def leave(module: nn.Module, _: Any, output: Any) -> None:
            name = self.inside.pop()
            for each in tree_leaves(output):
                if isinstance(each, Tensor) and each.requires_grad:
                    each.register_hook(begin_backward(name))

        handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def tensors_of(op: Any, args: Any, kwargs: Any) -> tuple[list[Tensor], list[Tensor]]:
    """The tensors that `op` reads and those that it writes into, by its schema; some are both."""
    read: list[Tensor] = []
    written: list[Tensor] = []
    schema = op._schema.arguments
    values = {declared.name: value for declared, value in zip(schema, args, strict=False)} | kwargs
    for declared in schema:
        found = tensors(values.get(declared.name))
        if not declared.is_out:
            read += found
        if declared.alias_info is not None and declared.alias_info.is_write:
            written += found
    return read, written


def made_by(op: Any, read: list[Tensor], results: Any) -> list[Tensor]:
    """The results of an op that hold numbers of its own: neither its arguments nor views of them."""
    name, returns = op.overloadpacket.__name__, op._schema.returns
    if name in UNDECLARED_VIEWS:
        return []
    values = [results] if len(returns) == 1 else results or []
    new = [value for value, declared in zip(values, returns, strict=True) if declared.alias_info is None]
    made = tensors(new)
    if "attention" in name or "attn" in name:
        # What they keep for the backward pass, a number or so a query, is padded with memory that is never written.
        shapes = {each.shape for each in read}
        made = [each for each in made if each.shape in shapes]
    return made


def tensors(tree: Any) -> list[Tensor]:
    """The tensors in lists, tuples and dicts."""
    return [each for each in tree_leaves(tree) if isinstance(each, Tensor)]


def clear_storage(x: Tensor, start: int) -> None:
    """Write zeros into the memory of `x` from byte `start` on."""
    memory = torch.empty(0, dtype=torch.uint8, device=x.device).set_(x.untyped_storage())
    memory[start:].zero_()


def finite(x: Tensor) -> bool:
    """Whether all numbers of `x` are finite; integers are."""
    return not (x.is_floating_point() or x.is_complex()) or bool(torch.isfinite(x).all())
