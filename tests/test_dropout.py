"""Dropout: its definition, its generator, its gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flowar.networks.attention_backends import attention
from flowar.networks.dropout import LEVELS, dropout


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_shares_and_expectation(probability: float) -> None:
    torch.manual_seed(0)
    count = 400_003  # not a multiple of what one draw serves
    dropped = dropout(torch.ones(count, dtype=torch.float64), probability)
    error = 5 * (probability * (1 - probability) / count) ** 0.5  # five standard errors
    assert abs((dropped == 0).double().mean().item() - probability) < error
    kept = dropped[dropped != 0]
    levels = round(probability * LEVELS)
    assert (kept == LEVELS / (LEVELS - levels)).all()
    assert abs(dropped.mean().item() - 1) < error / (1 - probability)


def test_neighbours_are_independent() -> None:
    """Four elements share one draw: any two of them are dropped together as often as chance has it."""
    torch.manual_seed(0)
    zeros = (dropout(torch.ones(100_000, 4), 0.5) == 0).double()
    assert (torch.corrcoef(zeros.T) - torch.eye(4)).abs().max() < 5 / 100_000**0.5


def test_the_generator_decides() -> None:
    def draw(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return dropout(torch.ones(3, 5, 7), 0.4)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_gradient_is_zero_where_dropped() -> None:
    x = torch.rand(4, 9).add_(1).requires_grad_()
    out = dropout(x, 0.3)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(gradient, (out / x).detach())


def test_nothing_and_nearly_everything() -> None:
    x = torch.rand(1000)
    assert torch.equal(dropout(x, 0.0), x)
    assert dropout(x[:0], 0.5).shape == (0,)
    assert dropout(x, 1 - 1e-9).isfinite().all()


@pytest.mark.parametrize("probability", [-0.1, 1.0, float("nan")])
def test_not_a_probability(probability: float) -> None:
    with pytest.raises(ValueError, match=r"dropout: expected a probability in \[0, 1\), got"):
        dropout(torch.ones(2), probability)


def test_attention_with_dropout_has_the_expectation_of_attention_without() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 5, 2, 8)
    mean = torch.stack([attention(q, k, v, 0.2) for _ in range(3000)]).mean(0)
    expected = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2).flatten(2)
    torch.testing.assert_close(mean, expected, rtol=0, atol=0.06)
