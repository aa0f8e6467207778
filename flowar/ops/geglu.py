from __future__ import annotations

from typing import Any

from torch import Tensor

from flowar.ops import backend, reference

_forward = backend.op("geglu")
_backward = backend.op("geglu_backward")


@backend.defined_by(reference.geglu)
def geglu(packed: Tensor) -> Tensor:
    """`gelu(a) * b` with the exact GELU. Equivalent to `reference.geglu`.

    Args:
        packed: [..., 2h], floating: a, then b, as one GEMM writes them. A strided view is read in place as long as its
            last dimension is contiguous.

    Returns:
        Contiguous [..., h] of the dtype of `packed`; computed in float32 (float64 for float64) and rounded once.

    Raises:
        ValueError: the last dimension is odd, or the dtype is not floating.
    """
    result: Tensor = _forward(packed)
    return result


def _fake(packed: Tensor) -> Tensor:
    return packed.new_empty((*packed.shape[:-1], packed.shape[-1] // 2))


def _fake_backward(grad: Tensor, packed: Tensor) -> Tensor:
    return packed.new_empty(packed.shape)


def _setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _autograd(ctx: Any, grad: Tensor) -> Tensor:
    (packed,) = ctx.saved_tensors
    grad_packed: Tensor = _backward(grad, packed)
    return grad_packed


backend.register_fake("geglu", _fake)
backend.register_fake("geglu_backward", _fake_backward)
backend.register_autograd("geglu", _autograd, _setup_context)
