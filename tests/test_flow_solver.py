"""The ODE solver on equations with known solutions."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from flowar.flow_solver import euler

START = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64).view(1, 1, 3)


def integrate(field: Callable[[Tensor, float], Tensor], steps: int) -> Tensor:
    """The solution at t = 0 of dx/dt = field(x, t) from `START` at t = 1, in uniform steps."""
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist()
    state = START.clone()
    return euler(lambda i: field(state, times[i]), state, times)


@pytest.mark.parametrize(
    ("field", "solution"),
    [
        (lambda x, t: x, START * math.exp(-1)),
        (lambda x, t: -2 * x, START * math.exp(2)),
        (lambda x, t: torch.full_like(x, math.cos(t)), START - math.sin(1)),
        (lambda x, t: x * t, START * math.exp(-0.5)),
    ],
    ids=["growth", "decay", "time alone", "both"],
)
def test_error_is_of_first_order(field: Callable[[Tensor, float], Tensor], solution: Tensor) -> None:
    errors = [((integrate(field, steps) / solution - 1).abs().max()).item() for steps in (100, 200, 400)]
    assert 0 < errors[0] < 0.03
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(2, rel=0.1)


def test_constant_velocity_is_exact() -> None:
    """The straight path of flow matching: one step from noise to data."""
    data, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    torch.testing.assert_close(euler(lambda i: noise - data, noise.clone(), (1.0, 0.0)), data)


def test_guidance_and_network_input() -> None:
    """v = v_u + w (v_c - v_u) where the velocity has two halves; the next input is the state, once per half."""
    state, seen = torch.zeros(2, 1, 1), []
    network_input = torch.zeros(4, 1, 1, dtype=torch.bfloat16)

    def velocity(i: int) -> Tensor:
        seen.append(network_input.clone())
        conditional, unconditional = torch.full((2, 1, 1), 3.0), torch.full((2, 1, 1), 1.0)
        return torch.cat((conditional, unconditional)) if i == 1 else conditional

    out = euler(velocity, state, (1.0, 0.5, 0.0), [1.0, 2.5], network_input)
    assert out is state
    assert torch.equal(state, torch.full((2, 1, 1), -0.5 * 3 - 0.5 * (1 + 2.5 * 2)))
    assert torch.equal(seen[1], torch.full((4, 1, 1), -1.5, dtype=torch.bfloat16))
    assert torch.equal(network_input.float(), torch.full((4, 1, 1), -4.5))
