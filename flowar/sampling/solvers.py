"""ODE solvers over a given time grid. They know nothing of networks: any `velocity` will do.

A solver is a list of `Evaluation`s, made from the times alone. All of these are linear in the velocities, so one
function runs them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flowar.errors import FlowARError, shown

if TYPE_CHECKING:
    from torch import Tensor

Times = Sequence[float]


class Evaluation(NamedTuple):
    """Ask for the velocity at `time`; then `x += coefficient * v_j` for every (j, coefficient) of `updates`.

    v_j is the velocity of evaluation j, this one or an earlier one. Where there is an `arrival`, it is the mean
    velocity from `time` to there.
    """

    time: float
    updates: tuple[tuple[int, float], ...]
    arrival: float | None = None

    @property
    def times(self) -> tuple[float, ...]:
        """The time, and the arrival if there is one."""
        return (self.time,) if self.arrival is None else (self.time, self.arrival)

    @property
    def interval(self) -> tuple[float, float]:
        """The times that the velocity is a mean over: twice the same where it is that of one time."""
        return self.time, self.time if self.arrival is None else self.arrival


def euler(times: Times, restarts: Collection[float] = ()) -> list[Evaluation]:
    """Euler's method, of first order, with one evaluation a step. The published models use it."""
    return [Evaluation(t, ((i, following - t),)) for i, (t, following) in enumerate(pairwise(times))]


def midpoint(times: Times, restarts: Collection[float] = ()) -> list[Evaluation]:
    """The midpoint method, of second order, with two evaluations a step: the velocity half way leads all the way."""
    evaluations = []
    for i, (t, following) in enumerate(pairwise(times)):
        start, step = 2 * i, following - t
        half_way = ((start, -step / 2), (start + 1, step))
        evaluations += [Evaluation(t, ((start, step / 2),)), Evaluation(t + step / 2, half_way)]
    return evaluations


def heun(times: Times, restarts: Collection[float] = ()) -> list[Evaluation]:
    """Heun's method, of second order, with two evaluations a step: the mean of the velocities at both ends leads."""
    evaluations = []
    for i, (t, following) in enumerate(pairwise(times)):
        start, step = 2 * i, following - t
        both_ends = ((start, -step / 2), (start + 1, step / 2))
        evaluations += [Evaluation(t, ((start, step),)), Evaluation(following, both_ends)]
    return evaluations


def adams_bashforth_2(times: Times, restarts: Collection[float] = ()) -> list[Evaluation]:
    """The Adams-Bashforth method of second order, with one evaluation a step.

    The velocity goes on along the line through this time and the one before.

    Where there is none before, or a velocity of other guidance, the step is Euler's.
    """
    evaluations = euler(times)
    for i in range(1, len(evaluations)):
        before, t, following = times[i - 1 : i + 2]
        if t not in restarts:
            step, bend = following - t, (following - t) ** 2 / (2 * (t - before))
            evaluations[i] = Evaluation(t, ((i - 1, -bend), (i, step + bend)))
    return evaluations


def dpm_solver_2m(times: Times, restarts: Collection[float] = ()) -> list[Evaluation]:
    """DPM-Solver++(2M) (Lu et al., arXiv 2211.01095) for the straight paths of flow matching.

    It is of second order, with one evaluation a step. Exact in the linear part of the ODE, it lets the data
    D = x - t v that each velocity points at go on along a line over log((1 - t) / t). That is infinite at both ends:
    the first two steps and the last one are Euler's, as are those of `restarts`.
    """
    evaluations = euler(times)
    unit = np.eye(len(evaluations))
    states = np.zeros((len(evaluations) + 1, len(evaluations)))  # row i: x_i - x_0 as a sum over all velocities
    for i, (t, following) in enumerate(pairwise(times)):
        states[i + 1] = states[i] + (following - t) * unit[i]
        if i >= 2 and following > 0 and t not in restarts:
            before = times[i - 1]
            bend = log_ratio(t, following) / (2 * log_ratio(before, t))
            data, data_before = states[i] - t * unit[i], states[i - 1] - before * unit[i - 1]
            states[i + 1] += (1 - following / t) * bend * (data - data_before)
        change = states[i + 1] - states[i]
        evaluations[i] = Evaluation(t, tuple((int(j), float(change[j])) for j in np.flatnonzero(change)))
    return evaluations


def jump(times: Times, restarts: Collection[float] = ()) -> list[Evaluation]:
    """The jumps of a distilled model, which knows the mean velocity over a step: exact, if it has learned them."""
    steps = enumerate(pairwise(times))
    return [Evaluation(t, ((i, following - t),), following) for i, (t, following) in steps]


def log_ratio(t: float, following: float) -> float:
    """The growth of log((1 - t) / t) from t to `following`."""
    return math.log((1 - following) / following) - math.log((1 - t) / t)


SOLVERS: dict[str, Callable[[Times, Collection[float]], list[Evaluation]]] = {
    "euler": euler,
    "midpoint": midpoint,
    "heun": heun,
    "ab2": adams_bashforth_2,
    "dpm2m": dpm_solver_2m,
}
# What a schedule may name: solvers of any ODE, and what distilled models alone can do.
METHODS = SOLVERS | {"jump": jump}


def integrate(
    velocity: Callable[[int], Tensor],
    state: Tensor,
    evaluations: Sequence[Evaluation],
    guidance_weights: Sequence[float] | None = None,
    network_input: Tensor | None = None,
    constrain: Callable[[float, float], None] | None = None,
    on_evaluation: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Integrate dx/dt = v over all `evaluations`, in place.

    Args:
        velocity: gives v at evaluation i, [B, n, c], or [2B, n, c] with the unconditional half second; no later call
            may change it.
        state: x [B, n, c], float32 or float64; updated in place and returned.
        guidance_weights: one per evaluation, for those whose velocity has two halves.
        network_input: [B or 2B, n, c] of any floating dtype; receives the new state after every evaluation.
        constrain: called after every evaluation with its time and the one that the state has reached; may change the
            state.
        on_evaluation: called with (i, data [B, n, c]) at every evaluation: where its velocity leads in a straight line.

    Raises:
        ValueError: for what is no state, no list of evaluations with a weight for each, or no function.
    """
    from flowar import ops  # only here: schedules are read, and options checked, without torch

    check_evaluations(evaluations)
    for name, function in (("velocity", velocity), ("constrain", constrain), ("on_evaluation", on_evaluation)):
        if not callable(function) and (function is not None or name == "velocity"):
            raise FlowARError(f"{name}: expected a function, got {shown(function)}")
    weights = guidance_weights or [1.0] * len(evaluations)
    if len(weights) != len(evaluations):
        raise FlowARError(f"guidance_weights: expected {len(evaluations)}, one per evaluation, got {len(weights)}")
    last_use = {j: i for i, evaluation in enumerate(evaluations) for j, _ in evaluation.updates}
    known: dict[int, Tensor] = {}
    for i, evaluation in enumerate(evaluations):
        known[i] = velocity(i)
        if on_evaluation is not None:
            data = state.clone()
            ops.velocity_step(data, known[i], -evaluation.time, weights[i])
            on_evaluation(i, data)
        *others, last = evaluation.updates
        for j, coefficient in others:
            ops.velocity_step(state, known[j], coefficient, weights[j])
        j, coefficient = last
        ops.velocity_step(state, known[j], coefficient, weights[j], network_input)
        if constrain is not None:
            constrain(evaluation.time, evaluations[i + 1].time if i + 1 < len(evaluations) else 0.0)
            if network_input is not None:
                network_input.view(-1, *state.shape).copy_(state)
        known = {j: v for j, v in known.items() if last_use[j] > i}
    return state


def check_evaluations(evaluations: Sequence[Evaluation]) -> None:
    """Check that each of these evaluations goes on by velocities that are known by then.

    Raises:
        ValueError: naming the first that does not, or is none.
    """
    if not isinstance(evaluations, (list, tuple)):
        raise FlowARError(f"evaluations: expected a list, got {shown(evaluations)}")
    for i, evaluation in enumerate(evaluations):
        used = [j for j, _ in evaluation.updates] if isinstance(evaluation, Evaluation) else []
        if not used or min(used) < 0 or max(used) > i:
            expected = f"an Evaluation with updates by velocities from 0 to {i}"
            raise FlowARError(f"evaluations[{i}]: expected {expected}, got {evaluation if used else shown(evaluation)}")
