from __future__ import annotations

from typing import Any

from torch import Tensor

from flowar.ops import backend, reference

_forward = backend.op("spatial_adaln")
_backward = backend.op("spatial_adaln_backward")


@backend.defined_by(reference.spatial_adaln)
def spatial_adaln(x: Tensor, scale: Tensor, shift: Tensor, norm: str = "rms", eps: float = 1e-6) -> Tensor:
    """`norm(x) * (1 + scale) + shift`. Equivalent to `reference.spatial_adaln`.

    Args:
        x: [B, N, C], floating. Strided views are read in place as long as their last dimension is contiguous.
        scale, shift: broadcast to x, any floating dtype (bfloat16 beside a float32 x, as under autocast); read in
            place: chunks of one packed GEMM output [B, N, 6C], or broadcast along tokens or batch.
        norm: "rms" or "layer", without weights.
        eps: added to the mean square.

    Returns:
        Contiguous, the shape of x, the promoted dtype of the three; computed in float32 (float64 for float64) and
        rounded once.

    Raises:
        ValueError: unknown `norm`, or an argument does not broadcast to x, or is not floating.
    """
    result: Tensor = _forward(x, scale, shift, backend.is_layer_norm(norm), eps)
    return result


def _fake(x: Tensor, scale: Tensor, shift: Tensor, layer_norm: bool, eps: float) -> Tensor:
    return x.new_empty(x.shape, dtype=backend.promoted(x, scale, shift))


def _fake_backward(grad: Tensor, x: Tensor, scale: Tensor, layer_norm: bool, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), backend.fake_modulation_gradient(scale, x, grad)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool, float], output: Tensor) -> None:
    x, scale, shift, ctx.layer_norm, ctx.eps = inputs
    ctx.save_for_backward(x, scale)
    ctx.shift = shift.shape, shift.dtype


def _autograd(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, scale = ctx.saved_tensors
    grad_x, grad_scale = _backward(grad, x, scale, ctx.layer_norm, ctx.eps)
    return grad_x, backend.reduced(grad_scale, scale.shape, scale.dtype), backend.reduced(grad, *ctx.shift), None, None


backend.register_fake("spatial_adaln", _fake)
backend.register_fake("spatial_adaln_backward", _fake_backward)
backend.register_autograd("spatial_adaln", _autograd, _setup_context)
