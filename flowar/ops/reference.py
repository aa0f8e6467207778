"""The definition of every op, in plain PyTorch.

Tests compare each kernel with these functions, run in float64 or float32; `FLOWAR_NO_EXT=1` installs serve the
ops with them. Shapes: B images, N tokens, C channels, H heads of d channels. Nothing here is tuned: read it as
the formula.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def normalize(x: Tensor, norm: str, eps: float) -> Tensor:
    """RMS norm (`norm="rms"`) or layer norm (`"layer"`) over the last dimension, without weights.

    Statistics are taken in float32 (float64 for float64 inputs); the result is cast back to `x.dtype`.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    if norm == "layer":
        wide = wide - wide.mean(-1, keepdim=True)
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def spatial_adaln(x: Tensor, scale: Tensor, shift: Tensor, norm: str = "rms", eps: float = 1e-6) -> Tensor:
    """`norm(x) * (1 + scale) + shift`; x [B, N, C], scale and shift broadcast to it (paper, section 3.4)."""
    return normalize(x, norm, eps) * (1 + scale) + shift


def spatial_adaln_residual(
    x: Tensor, gate: Tensor, branch: Tensor, scale: Tensor, shift: Tensor, norm: str = "rms", eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """`x' = x + gate * branch` and `spatial_adaln(x', scale, shift)`, both [B, N, C]."""
    x = x + gate * branch
    return x, spatial_adaln(x, scale, shift, norm, eps)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate adjacent channel pairs of x [B, N, H, d] by rotation [N, d/2, 2] = (cos, sin)."""
    cos, sin = rotation.to(x.dtype)[:, None].unbind(-1)  # [N, 1, d/2]
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)


def rotary_qkv(packed: Tensor, rotation: Tensor, heads: int, parts: int = 3) -> Tensor:
    """Split `packed` [B, N, parts*H*d] into heads and rotate all but the value: [parts, B, N, H, d].

    parts 3 is q, k, v; 2 is k, v; 1 is q alone.
    """
    split = packed.unflatten(-1, (parts, heads, -1)).unbind(2)
    values = split[2:] if parts == 3 else split[1:]
    rotated = split[: len(split) - len(values)]
    return torch.stack([*(rotate(part, rotation) for part in rotated), *values])


def rotary_qkv_cache(
    packed: Tensor, rotation: Tensor, heads: int, k_cache: Tensor, v_cache: Tensor, offset: int
) -> Tensor:
    """Rotate a packed q, k, v, write k and v into the caches [B, S, H, d] at token `offset`, and return q."""
    q, k, v = rotary_qkv(packed, rotation, heads).unbind()
    k_cache[:, offset : offset + k.shape[1]] = k
    v_cache[:, offset : offset + v.shape[1]] = v
    return q.clone()


def geglu(packed: Tensor) -> Tensor:
    """`gelu(a) * b` with exact GELU; packed [..., 2h] holds a then b."""
    gate, value = packed.chunk(2, -1)
    return torch.nn.functional.gelu(gate) * value


def silu_add(a: Tensor, b: Tensor) -> Tensor:
    """`SiLU(a + b)`; a [B, N, C], b broadcasts to it."""
    return torch.nn.functional.silu(a + b)


def latent_resample(tokens: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Apply a separable linear operator to a grid of tokens.

    tokens [B, h*w, C] row-major, rows [h', h], columns [w', w]; returns [B, h'*w', C].
    """
    grid = tokens.unflatten(1, (rows.shape[1], columns.shape[1]))
    rows, columns = rows.to(tokens.dtype), columns.to(tokens.dtype)
    return torch.einsum("ih,jw,bhwc->bijc", rows, columns, grid).flatten(1, 2)


def latent_pyramid(latents: Tensor, rows: Sequence[Tensor], columns: Sequence[Tensor]) -> Tensor:
    """`latent_resample` of one grid by many operators: latents [B, C, h, w] to tokens [B, sum(h_i*w_i), C]."""
    tokens = latents.flatten(2).transpose(1, 2)
    return torch.cat([latent_resample(tokens, r, c) for r, c in zip(rows, columns, strict=True)], 1)


def velocity_step(
    state: Tensor, velocity: Tensor, dt: float, guidance_weight: float, next_input: Tensor | None = None
) -> None:
    """Euler step in place: `state += dt * v`, state [B, n, C] float32 or float64.

    velocity [B, n, C], or [2B, n, C]: conditional half, then unconditional half, combined as
    `v = v_u + guidance_weight * (v_c - v_u)`. `next_input` [B or 2B, n, C] of any floating dtype receives the new
    state, twice when it has 2B rows.
    """
    batch = state.shape[0]
    velocity = velocity.to(state.dtype)
    if velocity.shape[0] == 2 * batch:
        conditional, unconditional = velocity.chunk(2)
        velocity = unconditional + guidance_weight * (conditional - unconditional)
    state.add_(velocity, alpha=dt)
    if next_input is not None:
        next_input.copy_(state.repeat(next_input.shape[0] // max(batch, 1), 1, 1))


E4M3_MAX = torch.finfo(torch.float8_e4m3fn).max  # 448


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of x [..., C] in float8_e4m3fn [M, C] under float32 scales [M, 1]; their product is x, rounded.

    The scale takes the largest magnitude of a row to 448, the largest of the format. A row of zeros stays one; the
    product of a row with an element that is not finite is NaN.
    """
    rows = x.reshape(-1, x.shape[-1]).float()
    largest = rows.abs().amax(-1, keepdim=True)
    scale = (largest * (1 / E4M3_MAX)).clamp(min=torch.finfo(torch.float32).tiny)  # no division by zero
    return (rows * (1 / scale)).to(torch.float8_e4m3fn), scale


WORD = 8  # bytes
RUN = 512  # words


def bit_sums(tensor: Tensor, run: int) -> tuple[Tensor, Tensor]:
    """The bits of a tensor in short, int64 on its device: exact, and read at the speed of memory.

    A sum modulo 2**64 of every `run` words of 64 bits, and the words behind the last whole run as they are, the last
    one filled up with zeros. A change that leaves no trace must cancel out in every run.
    """
    data, runs = tensor.reshape(-1), tensor.nbytes // (WORD * run)
    if data.nbytes % WORD or data.storage_offset() * data.itemsize % WORD:
        data = F.pad(data.view(torch.uint8), (0, -data.nbytes % WORD))  # a copy, which begins at a word
    words = data.view(torch.int64)
    return words[: runs * run].view(runs, run).sum(1), words[runs * run :]


def checked_copy(out: Tensor, source: Tensor) -> Tensor:
    """Copy `source` into `out`, in its dtype.

    Returns `bit_sums` of the source in runs of `RUN` words, then 1 if one of its elements is not finite, 0 if all are.
    """
    out.copy_(source)
    values = source if source.itemsize > 1 else source.float()  # floats of 8 bits cannot be asked
    return torch.cat((*bit_sums(source, RUN), (~values.isfinite()).any().long()[None]))


PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
PHILOX_WEYL = (0x9E3779B9, 0xBB67AE85)


def philox4x32(counter: list[Tensor], key: list[Tensor]) -> list[Tensor]:
    """Ten rounds of Philox4x32 (Salmon et al., SC 2011) on int64 tensors that hold 32-bit words."""
    mask = 0xFFFFFFFF
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = multiply_32(c0, PHILOX_MULTIPLIERS[0])
        high1, low1 = multiply_32(c2, PHILOX_MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + PHILOX_WEYL[0]) & mask, (k1 + PHILOX_WEYL[1]) & mask
    return [c0, c1, c2, c3]


def multiply_32(a: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of the 64-bit product; int64 has no unsigned product, so by 16-bit halves."""
    low = a * (b & 0xFFFF)  # < 2**48
    middle = a * (b >> 16) + (low >> 16)  # < 2**49
    return middle >> 16, ((middle & 0xFFFF) << 16) | (low & 0xFFFF)


def counter_normal(seeds: Tensor, stream: int, count: int) -> Tensor:
    """Standard normals [B, count] float32, a pure function of (seed, stream, index).

    seeds [B] int64. Index i of a row is word `i % 4` of the block with counter (i // 4, 0, stream, 0) and key (low,
    high word of the seed). Words become uniforms u = (word + 0.5) * 2**-32 and, by Box-Muller on the pairs (0, 1)
    and (2, 3), r cos and r sin with r = sqrt(-2 ln u_first), angle 2 pi u_second.
    """
    blocks = torch.arange((count + 3) // 4, device=seeds.device).expand(seeds.shape[0], -1)
    zero = torch.zeros_like(blocks)
    key = [(seeds & 0xFFFFFFFF)[:, None].expand_as(blocks), ((seeds >> 32) & 0xFFFFFFFF)[:, None].expand_as(blocks)]
    words = philox4x32([blocks, zero, zero + stream, zero], key)
    uniform = [(word.double() + 0.5) * 2.0**-32 for word in words]
    normals = []
    for first, second in (uniform[:2], uniform[2:]):
        radius = torch.sqrt(-2 * torch.log(first))
        normals += [radius * torch.cos(2 * torch.pi * second), radius * torch.sin(2 * torch.pi * second)]
    return torch.stack(normals, -1).flatten(1)[:, :count].float()
