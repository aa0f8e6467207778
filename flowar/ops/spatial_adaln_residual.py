from __future__ import annotations

from typing import Any

from torch import Tensor

from flowar.ops import backend, reference

_forward = backend.op("spatial_adaln_residual")
_backward = backend.op("spatial_adaln_residual_backward")


@backend.defined_by(reference.spatial_adaln_residual)
def spatial_adaln_residual(
    x: Tensor, gate: Tensor, branch: Tensor, scale: Tensor, shift: Tensor, norm: str = "rms", eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """`x' = x + gate * branch` and `norm(x') * (1 + scale) + shift`. Equivalent to `reference.spatial_adaln_residual`.

    Args:
        x: [B, N, C], floating. Strided views are read in place as long as their last dimension is contiguous.
        gate, branch, scale, shift: broadcast to x, any floating dtype (bfloat16 beside a float32 x, as under
            autocast); read in place: chunks of one packed GEMM output, or broadcast along tokens or batch.
        norm: "rms" or "layer", without weights.
        eps: added to the mean square.

    Returns:
        Two contiguous tensors of the shape of x: x' of the promoted dtype of x, gate and branch, and the modulated norm
        of the promoted dtype of all. Computed in float32 (float64 for float64), each rounded once.

    Raises:
        ValueError: unknown `norm`, or an argument does not broadcast to x, or is not floating.
    """
    total, out = _forward(x, gate, branch, scale, shift, backend.is_layer_norm(norm), eps)
    return total, out


def _fake(
    x: Tensor, gate: Tensor, branch: Tensor, scale: Tensor, shift: Tensor, layer_norm: bool, eps: float
) -> tuple[Tensor, Tensor]:
    total = x.new_empty(x.shape, dtype=backend.promoted(x, gate, branch))
    return total, x.new_empty(x.shape, dtype=backend.promoted(total, scale, shift))


def _fake_backward(
    grad_sum: Tensor,
    grad_out: Tensor,
    total: Tensor,
    gate: Tensor,
    branch: Tensor,
    scale: Tensor,
    layer_norm: bool,
    eps: float,
) -> tuple[Tensor, ...]:
    gradients = (backend.fake_modulation_gradient(each, total, grad_out) for each in (gate, branch, scale))
    return total.new_empty(total.shape), *gradients


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, gate, branch, scale, shift, ctx.layer_norm, ctx.eps = inputs
    total = output[0]
    # The branch serves the gradient of the gate alone: where nobody asks for that, x' stands in, which is kept anyway.
    spare = not ctx.needs_input_grad[1] and branch.shape == total.shape
    ctx.save_for_backward(total, gate, total if spare else branch, scale)
    ctx.arguments = [(each.shape, each.dtype) for each in (gate, branch, scale, shift)]
    ctx.x_dtype = x.dtype


def _autograd(ctx: Any, grad_sum: Tensor, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    grad_x, *grads = _backward(grad_sum, grad_out, *ctx.saved_tensors, ctx.layer_norm, ctx.eps)
    reduced = (backend.reduced(grad, *to) for grad, to in zip((*grads, grad_out), ctx.arguments, strict=True))
    return grad_x.to(ctx.x_dtype), *reduced, None, None


backend.register_fake("spatial_adaln_residual", _fake)
backend.register_fake("spatial_adaln_residual_backward", _fake_backward)
backend.register_autograd("spatial_adaln_residual", _autograd, _setup_context)
