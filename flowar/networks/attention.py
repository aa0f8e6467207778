"""Attention: rotary embedding, the two patterns over scales, and the key/value cache of the sampler.

q, k and v are [B, N, H, d]. No pattern needs a mask: tokens of a scale see whole scales, so each scale is one dense
attention over its own tokens (flow transformer) or over the prefix that ends with them (AR transformer).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from flowar import ops
from flowar.config import Grid
from flowar.networks.arguments import check_heads
from flowar.networks.attention_backends import attention
from flowar.networks.dropout import dropout as drop
from flowar.networks.layers import RMSNorm


def rotation_table(grids: Sequence[Grid], head_dim: int) -> Tensor:
    """The table (cos, sin) of the 2-D rotary embedding for the tokens of all `grids`, float32 [S, head_dim / 2, 2].

    The first half of a head turns with the row, the second with the column. Position i of s along an axis is
    `i * finest / s`, so that every scale spans the coordinates of the finest one.
    """
    exponents = torch.arange(0, head_dim // 2, 2, dtype=torch.float64, device="cpu") / (head_dim // 2)
    frequencies = 10000.0**-exponents  # [d/4]
    tables = []
    for grid in grids:
        rows, columns = (
            torch.arange(size, dtype=torch.float64, device="cpu")[:, None] * (finest / size) * frequencies
            for size, finest in zip(grid, grids[-1], strict=True)
        )
        angles = torch.cat(
            (rows[:, None].expand(-1, grid[1], -1), columns[None].expand(grid[0], -1, -1)), -1
        )  # [h, w, d/2]
        tables.append(torch.stack((angles.cos(), angles.sin()), -1).flatten(0, 1))
    return torch.cat(tables).float()


class Parts(torch.autograd.Function):
    """Cut q, k or v of some tokens out of qkv [3, B, N, H, d]: `qkv[which, :, start:stop]` for each part.

    A part is (which, start, stop).

    Slices would do; but each has a gradient of the size of all, and the sum of these costs more than the attention of
    the coarse scales. Here every gradient is written, or added where parts overlap, into its place. Parts of one
    `which` start no later than the next and stop no later; together they hold all tokens.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, parts: Sequence[tuple[int, int, int]]) -> tuple[Tensor, ...]:
        ctx.shape, ctx.parts = qkv.shape, parts
        return tuple(qkv[which, :, start:stop] for which, start, stop in parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].new_empty(ctx.shape)
        written_from = [total.shape[2]] * len(total)  # the last part first: it is the widest of those that overlap
        for (which, start, stop), grad in zip(reversed(ctx.parts), reversed(grads), strict=True):
            place = total[which, :, start:stop]
            if stop <= written_from[which]:
                place.copy_(grad)
            else:
                place += grad
            written_from[which] = min(written_from[which], start)
        return total, None


def scale_attention(qkv: Tensor, lengths: Sequence[int], causal: bool = False, dropout: float = 0.0) -> Tensor:
    """Every scale of qkv [3, B, N, H, d] attends to itself, or, `causal`, also to all coarser ones: [B, N, H*d].

    N = sum(lengths).
    """
    if len(lengths) == 1:
        q, k, v = qkv.unbind()
        return attention(q, k, v, dropout)
    stops = list(accumulate(lengths))
    starts = [0, *stops[:-1]]
    keys_from = [0] * len(lengths) if causal else starts
    parts = [
        (which, start, stop)
        for which, from_ in enumerate((starts, keys_from, keys_from))
        for start, stop in zip(from_, stops, strict=True)
    ]
    flat: tuple[Tensor, ...] = Parts.apply(qkv, tuple(parts))  # type: ignore[no-untyped-call]
    scales = len(lengths)
    by_scale = zip(flat[:scales], flat[scales : 2 * scales], flat[2 * scales :], strict=True)
    return torch.cat([attention(*part, dropout) for part in by_scale], 1)


def cross_attention(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int]) -> Tensor:
    """Every scale of q [B, N, H, d] attends to the same scale of k and v: [B, N, H*d]."""
    if len(lengths) == 1:
        return attention(q, k, v)
    parts = zip(*(x.split(list(lengths), 1) for x in (q, k, v)), strict=True)
    return torch.cat([attention(*part) for part in parts], 1)


class KVCache:
    """Keys and values of all scales for every AR block, allocated once: [depth, B, S, H, d] each."""

    def __init__(
        self, depth: int, batch: int, tokens: int, heads: int, head_dim: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (2, depth, batch, tokens, heads, head_dim)
        self.keys, self.values = torch.empty(shape, device=device, dtype=dtype).unbind()
        self.offset = 0


class HeadNorm(nn.Module):
    """RMS norm of every head of the first `normed` of the `parts` of a packed projection, with one weight [d] a part.

    It normalises queries and keys before their rotation: attention scores then stay bounded, whatever the
    activations are.
    """

    def __init__(self, heads: int, head_dim: int, parts: int, normed: int) -> None:
        super().__init__()
        self.heads, self.parts = heads, parts
        self.norms = nn.ModuleList(RMSNorm(head_dim) for _ in range(normed))

    def forward(self, packed: Tensor) -> Tensor:
        """Normalise packed [B, N, parts * H * d]; shape and dtype stay."""
        parts = packed.unflatten(-1, (self.parts, self.heads, -1)).unbind(2)  # [B, N, H, d] each
        normed = [norm(part).to(packed.dtype) for norm, part in zip(self.norms, parts, strict=False)]
        return torch.cat([part.flatten(2) for part in (*normed, *parts[len(normed) :])], -1)


class SelfAttention(nn.Module):
    """Packed q, k, v projection, norm of q and k if asked for, rotary embedding, attention, output projection."""

    def __init__(self, width: int, heads: int, qkv_bias: bool, dropout: float = 0.0, qk_norm: bool = False) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.qk_norm = HeadNorm(heads, width // heads, parts=3, normed=2) if qk_norm else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rotation: Tensor, lengths: Sequence[int], causal: bool = False) -> Tensor:
        """Attention within every scale of x [B, N, W], or, `causal`, also to the coarser ones."""
        dropout = self.dropout if self.training else 0.0
        qkv = ops.rotary_qkv(self.qk_norm(self.qkv(x)), rotation, self.heads)  # [3, B, N, H, d]
        out = self.proj(scale_attention(qkv, lengths, causal, dropout))  # [B, N, W]
        return drop(out, dropout) if dropout else out

    def cached(self, x: Tensor, rotation: Tensor, cache: KVCache, block: int) -> Tensor:
        """The causal attention of one scale's tokens x [B, n, W], given the cache of all coarser scales."""
        keys, values, end = cache.keys[block], cache.values[block], cache.offset + x.shape[1]
        q = ops.rotary_qkv_cache(self.qk_norm(self.qkv(x)), rotation, self.heads, keys, values, cache.offset)
        return self.proj(attention(q, keys[:, :end], values[:, :end]))


class CrossAttention(nn.Module):
    """Rotary q from the flow's tokens, rotary k and plain v from the conditions at the same positions."""

    def __init__(self, width: int, condition_width: int, heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(condition_width, 2 * width, bias=False)
        self.q_norm = HeadNorm(heads, width // heads, parts=1, normed=1) if qk_norm else nn.Identity()
        self.k_norm = HeadNorm(heads, width // heads, parts=2, normed=1) if qk_norm else nn.Identity()
        self.proj = nn.Linear(width, width)

    def keys_values(self, z: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, N, H, d] of z [B, N, D]. They do not depend on the time: one call serves all steps."""
        k, v = ops.rotary_qkv(self.k_norm(self.kv(z)), rotation, self.heads, parts=2).unbind()
        return k, v

    def forward(self, x: Tensor, keys_values: tuple[Tensor, ...], rotation: Tensor, lengths: Sequence[int]) -> Tensor:
        """Attention from x [B, N, W] to these keys and values, each scale of `lengths` to itself: [B, N, W]."""
        (q,) = ops.rotary_qkv(self.q_norm(self.q(x)), rotation, self.heads, parts=1).unbind()
        k, v = keys_values
        return self.proj(cross_attention(q, k, v, lengths))
