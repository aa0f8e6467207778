"""Attention over scales: without a mask the same as with one."""

from __future__ import annotations

import pytest
import torch
from conftest import error
from torch import Tensor
from torch._dynamo.utils import counters

from flowar.attention import scale_attention, scale_causal_attention

LENGTHS = (1, 4, 6, 12)  # grids of 1x1, 2x2, 2x3, 3x4


def inputs(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """q, k, v [B, N, H, d]."""
    generator = torch.Generator().manual_seed(0)
    packed = torch.randn(3, 2, sum(LENGTHS), 3, 8, generator=generator, dtype=dtype)
    return [x.requires_grad_() for x in packed.unbind()]


def masked(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """The definition: one attention over all tokens, under a mask."""
    scale = torch.arange(len(LENGTHS)).repeat_interleave(torch.tensor(LENGTHS))
    mask = scale[:, None] >= scale if causal else scale[:, None] == scale
    scores = torch.einsum("bnhd,bmhd->bhnm", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("bhnm,bmhd->bnhd", scores.masked_fill(~mask, -torch.inf).softmax(-1), v).flatten(2)


@pytest.mark.parametrize("causal", [False, True])
def test_values_and_gradients_are_those_of_a_mask(causal: bool) -> None:
    q, k, v = inputs()
    out, expected = (scale_causal_attention if causal else scale_attention)(q, k, v, LENGTHS), masked(q, k, v, causal)
    assert error(out, expected) < 1e-12
    weights = torch.randn(out.shape, dtype=out.dtype)
    for got, wanted in zip(*(torch.autograd.grad(each, (q, k, v), weights) for each in (out, expected)), strict=True):
        assert error(got, wanted) < 1e-12


def test_gradients_that_others_hold_stay_as_they_are() -> None:
    """The gradient of the longest prefix may be one that the caller goes on to use."""
    q, k, v = inputs()
    weights = torch.ones(2, sum(LENGTHS), 24, dtype=torch.float64)
    out = scale_causal_attention(q, k, v, LENGTHS)
    first = torch.autograd.grad(out, (q, k, v), weights, retain_graph=True)
    again = torch.autograd.grad(out, (q, k, v), weights)
    assert all(map(torch.equal, first, again))
    assert (weights == 1).all()


def test_compiles_whole() -> None:
    q, k, v = inputs(torch.float32)
    counters.clear()
    compiled = torch.compile(scale_causal_attention, fullgraph=True, backend="aot_eager")
    out, expected = compiled(q, k, v, LENGTHS), scale_causal_attention(q, k, v, LENGTHS)
    assert error(out, expected) < 1e-6
    for got, wanted in zip(*(torch.autograd.grad(each.sum(), (k, v)) for each in (out, expected)), strict=True):
        assert error(got, wanted) < 1e-5
    assert not counters["graph_break"]
