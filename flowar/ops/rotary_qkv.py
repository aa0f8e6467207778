from __future__ import annotations

from typing import Any

from torch import Tensor

from flowar.ops import backend, reference

_forward = backend.op("rotary_qkv")
_backward = backend.op("rotary_qkv_backward")
_cache = backend.op("rotary_qkv_cache")


@backend.defined_by(reference.rotary_qkv)
def rotary_qkv(packed: Tensor, rotation: Tensor, heads: int, parts: int = 3) -> Tensor:
    """Split a packed qkv into heads and rotate all but the value. Equivalent to `reference.rotary_qkv`.

    Args:
        packed: [B, N, parts * heads * d], floating, d even. A strided view is read in place as long as its last
            dimension is contiguous.
        rotation: [N, d / 2, 2] float32 (or float64 with a float64 `packed`): cosine and sine of each channel pair. It
            has no gradient.
        heads: number of heads.
        parts: 3 for q, k, v; 2 for k, v; 1 for q alone.

    Returns:
        Contiguous [parts, B, N, heads, d] of the dtype of `packed`.

    Raises:
        ValueError: shapes that do not fit together, `parts` out of range, or a dtype that is not floating.
    """
    result: Tensor = _forward(packed, rotation, heads, parts)
    return result


@backend.defined_by(reference.rotary_qkv_cache)
def rotary_qkv_cache(
    packed: Tensor, rotation: Tensor, heads: int, k_cache: Tensor, v_cache: Tensor, offset: int
) -> Tensor:
    """Rotate a packed q, k, v and write k and v into a cache. Equivalent to `reference.rotary_qkv_cache`.

    Args:
        packed, rotation, heads: those of `rotary_qkv` with `parts=3`.
        k_cache, v_cache: [B, S, heads, d], any floating dtype and strides (last one 1), S >= offset + N; written at
            tokens offset .. offset + N - 1. No gradient flows through them.
        offset: the first token to write.

    Returns:
        q, contiguous [B, N, heads, d] of the dtype of `packed`.

    Raises:
        ValueError: shapes that do not fit together, `offset` out of range, or a dtype that is not floating.
    """
    result: Tensor = _cache(packed, rotation, heads, k_cache, v_cache, offset)
    return result


def _fake(packed: Tensor, rotation: Tensor, heads: int, parts: int) -> Tensor:
    batch, tokens, width = packed.shape
    return packed.new_empty((parts, batch, tokens, heads, width // (parts * heads)))


def _fake_cache(packed: Tensor, rotation: Tensor, heads: int, k_cache: Tensor, v_cache: Tensor, offset: int) -> Tensor:
    batch, tokens, width = packed.shape
    return packed.new_empty((batch, tokens, heads, width // (3 * heads)))


def _fake_backward(grad: Tensor, rotation: Tensor) -> Tensor:
    parts, batch, tokens, heads, dim = grad.shape
    return grad.new_empty((batch, tokens, parts * heads * dim))


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int, int], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _autograd(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (rotation,) = ctx.saved_tensors
    return _backward(grad, rotation), None, None, None


backend.register_fake("rotary_qkv", _fake)
backend.register_fake("rotary_qkv_cache", _fake_cache)
backend.register_fake("rotary_qkv_backward", _fake_backward)
backend.register_autograd("rotary_qkv", _autograd, _setup_context)
