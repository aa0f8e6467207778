"""The ODE solvers on equations with known solutions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from flowar.errors import FlowARError
from flowar.sampling.solvers import SOLVERS, Evaluation, euler, integrate

START = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64).view(1, 1, 3)
ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "ab2": 2, "dpm2m": 2}
SLACK = 0.4  # dpm2m, whose steps never become small against the logarithm at the ends, has a logarithm in its error
PER_STEP = {"euler": 1, "midpoint": 2, "heun": 2, "ab2": 1, "dpm2m": 1}
DATA_DEVIATION = 0.3  # of the normal distribution that the last of the fields below leads to

Field = Callable[[Tensor, float], Tensor]


def denser_near_the_data(steps: int) -> list[float]:
    return np.linspace(1, 0, steps + 1, dtype=np.float64).__pow__(1.5).tolist()


def uniform(steps: int) -> list[float]:
    return np.linspace(1, 0, steps + 1).tolist()


def run(solver: str, field: Field, times: list[float], restarts: tuple[float, ...] = ()) -> Tensor:
    """The solution at t = 0 of dx/dt = field(x, t) from `START` at t = 1."""
    state = START.clone()
    evaluations = SOLVERS[solver](times, restarts)
    return integrate(lambda i: field(state, evaluations[i].time), state, evaluations)


def normal_data(x: Tensor, t: float) -> Tensor:
    """The velocity of flow matching to data of a normal distribution: (t - (1 - t) s²) x / (t² + (1 - t)² s²)."""
    variance = DATA_DEVIATION**2
    return x * (t - (1 - t) * variance) / (t**2 + (1 - t) ** 2 * variance)


FIELDS: dict[str, tuple[Field, Tensor]] = {
    "growth": (lambda x, t: x.clone(), START * math.exp(-1)),
    "decay": (lambda x, t: -2 * x, START * math.exp(2)),
    "time alone": (lambda x, t: torch.full_like(x, math.cos(t)), START - math.sin(1)),
    "both": (lambda x, t: x * t, START * math.exp(-0.5)),
    "normal data": (normal_data, START * DATA_DEVIATION),
}


@pytest.mark.parametrize("grid", [uniform, denser_near_the_data])
@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_order_of_convergence(solver: str, name: str, grid: Callable[[int], list[float]]) -> None:
    field, solution = FIELDS[name]
    errors = [((run(solver, field, grid(steps)) / solution - 1).abs().max()).item() for steps in (200, 800)]
    assert 0 < errors[0] < 0.03
    assert math.log2(errors[0] / errors[1]) / 2 > ORDERS[solver] - SLACK


@pytest.mark.parametrize("solver", SOLVERS)
def test_evaluations_a_step(solver: str) -> None:
    evaluations = SOLVERS[solver](uniform(7), ())
    assert len(evaluations) == 7 * PER_STEP[solver]
    assert evaluations[0].time == 1
    assert all(j <= i for i, each in enumerate(evaluations) for j, _ in each.updates)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 8])
def test_constant_velocity_is_exact(solver: str, steps: int) -> None:
    """The straight path of flow matching."""
    noise = START + 3
    evaluations = SOLVERS[solver](uniform(steps), ())
    torch.testing.assert_close(integrate(lambda i: noise - START, noise.clone(), evaluations), START)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_field_that_changes_suddenly_costs_no_order_where_solvers_start_anew(solver: str) -> None:
    """As guidance does: solvers that look back must not carry the one velocity on into the other."""

    def field(x: Tensor, t: float) -> Tensor:
        return -3 * x if t <= 0.5 else x.clone()

    def error(steps: int, restarts: tuple[float, ...]) -> float:
        return (run(solver, field, uniform(steps), restarts) / (START * math.exp(1)) - 1).abs().max().item()

    if PER_STEP[solver] == 1:  # the others ask for both velocities in the step that crosses
        assert math.log2(error(200, (0.5,)) / error(800, (0.5,))) / 2 > ORDERS[solver] - SLACK
    if solver == "ab2":
        assert error(200, ()) > 5 * error(200, (0.5,))


def test_guidance_and_network_input() -> None:
    """v = v_u + w (v_c - v_u) where the velocity has two halves; the next input is the state, once per half."""
    state, seen = torch.zeros(2, 1, 1), []
    network_input = torch.zeros(4, 1, 1, dtype=torch.bfloat16)

    def velocity(i: int) -> Tensor:
        seen.append(network_input.clone())
        conditional, unconditional = torch.full((2, 1, 1), 3.0), torch.full((2, 1, 1), 1.0)
        return torch.cat((conditional, unconditional)) if i == 1 else conditional

    out = integrate(velocity, state, euler((1.0, 0.5, 0.0)), [1.0, 2.5], network_input)
    assert out is state
    assert torch.equal(state, torch.full((2, 1, 1), -0.5 * 3 - 0.5 * (1 + 2.5 * 2)))
    assert torch.equal(seen[1], torch.full_like(seen[1], -1.5))
    assert torch.equal(network_input, torch.full_like(network_input, float(state[0])))


def test_an_earlier_velocity_keeps_its_guidance() -> None:
    """Every velocity is combined by the weight of its own evaluation."""
    evaluations = [Evaluation(1.0, ((0, 0.0),)), Evaluation(0.5, ((0, 1.0), (1, 10.0)))]
    halves = torch.tensor([2.0, 1.0]).view(2, 1, 1)
    state = integrate(lambda i: halves, torch.zeros(1, 1, 1), evaluations, [3.0, 1.0])
    assert state.item() == 1.0 * (1 + 3 * (2 - 1)) + 10.0 * 2


def test_dpm2m_takes_three_plain_steps() -> None:
    """The first two and the last; the others look back."""
    seen = [[j for j, _ in evaluation.updates] for evaluation in SOLVERS["dpm2m"](uniform(5), ())]
    assert seen == [[0], [1], [1, 2], [1, 2, 3], [4]]


@pytest.mark.parametrize(
    ("name", "value"), [("velocity", None), ("velocity", 3), ("constrain", 3), ("on_evaluation", "x")]
)
def test_what_is_no_function(name: str, value: object) -> None:
    functions: dict[str, object] = {"velocity": lambda i: START, name: value}
    with pytest.raises(FlowARError, match=f"{name}: expected a function, got"):
        integrate(functions.pop("velocity"), START.clone(), euler([1.0, 0.0]), **functions)  # type: ignore[arg-type]
