"""Attention over scales: without a mask the same as with one."""

from __future__ import annotations

import pytest
import torch
from conftest import error
from torch import Tensor
from torch._dynamo.utils import counters

from flowar.networks.attention import cross_attention, scale_attention

LENGTHS = (1, 4, 6, 12)  # grids of 1x1, 2x2, 2x3, 3x4


def inputs(dtype: torch.dtype = torch.float64) -> Tensor:
    """q, k, v [3, B, N, H, d]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 2, sum(LENGTHS), 3, 8, generator=generator, dtype=dtype).requires_grad_()


def masked(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """The definition: one attention over all tokens, under a mask."""
    scale = torch.arange(len(LENGTHS)).repeat_interleave(torch.tensor(LENGTHS))
    mask = scale[:, None] >= scale if causal else scale[:, None] == scale
    scores = torch.einsum("bnhd,bmhd->bhnm", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("bhnm,bmhd->bnhd", scores.masked_fill(~mask, -torch.inf).softmax(-1), v).flatten(2)


@pytest.mark.parametrize("causal", [False, True])
def test_values_and_gradients_are_those_of_a_mask(causal: bool) -> None:
    qkv = inputs()
    same_as(scale_attention(qkv, LENGTHS, causal), masked(*qkv.unbind(), causal), qkv)


def test_attention_to_another_sequence() -> None:
    qkv = inputs()
    same_as(cross_attention(*qkv.unbind(), LENGTHS), masked(*qkv.unbind(), causal=False), qkv)


def same_as(out: Tensor, expected: Tensor, qkv: Tensor) -> None:
    """Check values and gradients."""
    assert error(out, expected) < 1e-12
    weights = torch.randn(out.shape, dtype=out.dtype)
    (got,), (wanted,) = (torch.autograd.grad(each, qkv, weights) for each in (out, expected))
    assert error(got, wanted) < 1e-12


def test_gradients_that_others_hold_stay_as_they_are() -> None:
    """The gradient of a part may be one that the caller goes on to use."""
    qkv = inputs()
    weights = torch.ones(2, sum(LENGTHS), 24, dtype=torch.float64)
    out = scale_attention(qkv, LENGTHS, causal=True)
    first = torch.autograd.grad(out, qkv, weights, retain_graph=True)
    again = torch.autograd.grad(out, qkv, weights)
    assert all(map(torch.equal, first, again))
    assert (weights == 1).all()


def test_compiles_whole() -> None:
    qkv = inputs(torch.float32)
    counters.clear()
    compiled = torch.compile(scale_attention, fullgraph=True, backend="aot_eager")
    out, expected = compiled(qkv, LENGTHS, causal=True), scale_attention(qkv, LENGTHS, causal=True)
    assert error(out, expected) < 1e-6
    (got,), (wanted,) = (torch.autograd.grad(each.sum(), qkv) for each in (out, expected))
    assert error(got[1:], wanted[1:]) < 1e-5  # the sum does not depend on q but for rounding
    assert not counters["graph_break"]
