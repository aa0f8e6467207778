from __future__ import annotations

from typing import Any

from torch import Tensor

from flowar.ops import backend, reference

_forward = backend.op("silu_add")
_backward = backend.op("silu_add_backward")


@backend.defined_by(reference.silu_add)
def silu_add(a: Tensor, b: Tensor) -> Tensor:
    """SiLU of a sum. Equivalent to `reference.silu_add`.

    Args:
        a: [..., C], floating, up to three dimensions (more if their leading ones merge). Strided views are read in
            place as long as their last dimension is contiguous.
        b: broadcasts to `a`, any floating dtype; read in place like `a`.

    Returns:
        Contiguous, the shape of `a`, the promoted dtype of `a` and `b`; computed in float32 (float64 for float64) and
        rounded once.

    Raises:
        ValueError: `b` does not broadcast to `a`, or one of them is not floating.
    """
    result: Tensor = _forward(a, b)
    return result


def _fake(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape, dtype=backend.promoted(a, b))


def _fake_backward(grad: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return grad.new_empty(a.shape)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _autograd(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    a, b = ctx.saved_tensors
    grad_sum = _backward(grad, a, b)
    return grad_sum.to(a.dtype), backend.reduced(grad_sum, b.shape, b.dtype)


backend.register_fake("silu_add", _fake)
backend.register_fake("silu_add_backward", _fake_backward)
backend.register_autograd("silu_add", _autograd, _setup_context)
