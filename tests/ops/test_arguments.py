"""Every refusal of the compiled ops, with its message: the op, the argument, what was expected, what came."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from op_cases import randn

from flowar import ops

pytestmark = pytest.mark.skipif(ops.reference_active(), reason="installed without the compiled ops")

X, MATRIX, SEEDS = randn(2, 3, 8), randn(4, 3), torch.tensor([1, 2])
INTEGERS = torch.ones(2, 3, 8, dtype=torch.int64)
CACHE = torch.zeros(2, 5, 2, 4)
PACKED, ROTATION = randn(2, 3, 24), randn(3, 2, 2)

REFUSALS: list[tuple[str, tuple[Any, ...], str]] = [
    ("silu_add", (X, randn(4, 8)), "silu_add: b: expected a shape that broadcasts to [2, 3, 8], got [4, 8]"),
    ("silu_add", (X, INTEGERS), "silu_add: b: expected a floating dtype of 16, 32 or 64 bits, got another dtype"),
    ("silu_add", (torch.tensor(1.0), X), "silu_add: a: expected at least one dimension, got []"),
    ("geglu", (randn(2, 7),), "geglu: packed: expected an even last dimension (gate, then value), got [2, 7]"),
    ("geglu", (INTEGERS,), "geglu: packed: expected a floating dtype"),
    ("spatial_adaln", (X, X, randn(2, 2, 8)), "spatial_adaln: shift: expected a shape that broadcasts to [2, 3, 8]"),
    ("spatial_adaln", (X, randn(2, 3, 4), X), "spatial_adaln: scale: expected a shape that broadcasts to [2, 3, 8]"),
    ("spatial_adaln", (INTEGERS, X, X), "spatial_adaln: x: expected a floating dtype"),
    ("spatial_adaln_residual", (X, randn(3, 1, 8), X, X, X), "spatial_adaln_residual: gate: expected a shape that"),
    ("spatial_adaln_residual", (X, X, randn(2, 4, 8), X, X), "spatial_adaln_residual: branch: expected a shape that"),
    ("checked_copy", (X, MATRIX), "checked_copy: source: expected the shape of out, [2, 3, 8], got [4, 3]"),
    ("quantize_rows", (INTEGERS,), "quantize_rows: x: expected a floating dtype"),
    ("quantize_rows", (X[..., :0],), "quantize_rows: x: expected a last dimension that is not empty, got [2, 3, 0]"),
    ("rotary_qkv", (X[0], ROTATION, 1), "rotary_qkv: packed: expected three dimensions"),
    ("rotary_qkv", (PACKED, ROTATION, 2, 4), "rotary_qkv: parts: expected 1, 2 or 3, got 4"),
    ("rotary_qkv", (PACKED, ROTATION, 0), "rotary_qkv: heads: expected at least 1, got 0"),
    ("rotary_qkv", (PACKED, ROTATION, 5), "packed: expected a last dimension of parts * heads * dim = 3 * 5 * an even"),
    ("rotary_qkv", (PACKED, ROTATION, 8), "packed: expected a last dimension of parts * heads * dim = 3 * 8 * an even"),
    (
        "rotary_qkv",
        (PACKED, randn(4, 2, 2), 2),
        "rotation: expected shape [tokens, dim / 2, 2] = [3, 2, 2], got [4, 2, 2]",
    ),
    ("rotary_qkv", (PACKED, ROTATION.long(), 2), "rotary_qkv: rotation: expected a floating dtype"),
    (
        "rotary_qkv_cache",
        (PACKED, ROTATION, 2, CACHE, CACHE, 3),
        "k_cache: expected shape [2, at least 6, 2, 4], got [2, 5",
    ),
    ("rotary_qkv_cache", (PACKED, ROTATION, 2, CACHE, CACHE[:1], 0), "v_cache: expected shape [2, at least 3, 2, 4]"),
    (
        "rotary_qkv_cache",
        (PACKED, ROTATION, 2, CACHE, CACHE, -1),
        "rotary_qkv_cache: offset: expected at least 0, got -1",
    ),
    (
        "rotary_qkv_cache",
        (PACKED, ROTATION, 2, CACHE, torch.zeros(2, 5, 4, 2).mT, 0),
        "v_cache: expected a last dimension of stride 1, got 2",
    ),
    ("latent_resample", (X[0], MATRIX, MATRIX), "latent_resample: tokens: expected three dimensions"),
    (
        "latent_resample",
        (X, MATRIX, MATRIX),
        "tokens: expected as many tokens as rows and columns take, 3 * 3, got [2, 3,",
    ),
    ("latent_resample", (X, MATRIX[0], MATRIX), "latent_resample: rows: expected a matrix [out, in], got [3]"),
    ("latent_resample", (X, MATRIX, MATRIX.long()), "latent_resample: columns: expected a floating dtype"),
    ("latent_pyramid", (X, [MATRIX], [MATRIX]), "latent_pyramid: latents: expected four dimensions"),
    ("latent_pyramid", (X[None], [MATRIX] * 2, [MATRIX]), "columns: expected as many matrices as rows, 2, got 1"),
    ("latent_pyramid", (X[None], [MATRIX] * 33, [MATRIX] * 33), "rows: expected at most 32 matrices, got 33"),
    ("latent_pyramid", (X[None], [MATRIX], [MATRIX]), "columns: expected matrices of 8 columns, got [4, 3]"),
    ("latent_pyramid", (X[None].mT, [MATRIX], [MATRIX]), "rows: expected matrices of 8 columns, got [4, 3]"),
    ("velocity_step", (X[0], X, 0.1, 1.0), "velocity_step: state: expected three dimensions"),
    ("velocity_step", (X.bfloat16(), X, 0.1, 1.0), "velocity_step: state: expected float32 or float64, got a 16-bit"),
    ("velocity_step", (X.mT.contiguous().mT, X, 0.1, 1.0), "state: expected a last dimension of stride 1, got 3"),
    ("velocity_step", (X, X[:1], 0.1, 1.0), "velocity: expected as many batch entries as state, or twice as many"),
    (
        "velocity_step",
        (X, X, 0.1, 1.0, randn(3, 3, 8)),
        "next_input: expected as many batch entries as state, or twice",
    ),
    ("velocity_step", (X, X, 0.1, 1.0, randn(4, 3, 7)), "next_input: expected shape [4, 3, 8], got [4, 3, 7]"),
    ("counter_normal", (SEEDS[None], 0, 4), "counter_normal: seeds: expected one dimension, got [1, 2]"),
    ("counter_normal", (SEEDS.int(), 0, 4), "counter_normal: seeds: expected int64, got another dtype"),
    ("counter_normal", (SEEDS, 2**32, 4), "counter_normal: stream: expected 0 .. 2^32 - 1, got 4294967296"),
    ("counter_normal", (SEEDS, 0, -1), "counter_normal: count: expected 0 .. 2^34, got -1"),
    ("cpu_isa", ("neon",), "cpu_isa: select: expected an instruction set of this processor (baseline, avx2, avx512)"),
]


@pytest.mark.parametrize(
    ("name", "arguments", "message"), REFUSALS, ids=[f"{r[0]}-{i}" for i, r in enumerate(REFUSALS)]
)
def test_refusal(name: str, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RuntimeError) as caught:
        getattr(ops, name)(*arguments)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_unknown_norm() -> None:
    with pytest.raises(ValueError, match='norm: expected "rms" or "layer", got \'batch\''):
        ops.spatial_adaln(X, X, X, norm="batch")


def test_nothing_is_written_on_refusal() -> None:
    state, cache = X.clone(), CACHE.clone()
    with pytest.raises(RuntimeError):
        ops.velocity_step(state, X, 1.0, 1.0, randn(4, 3, 7))
    with pytest.raises(RuntimeError):
        ops.rotary_qkv_cache(PACKED, ROTATION, 2, cache, CACHE[:1], 0)
    assert torch.equal(state, X)
    assert torch.equal(cache, CACHE)
