"""Tuning of a schedule: the evaluations of every scale that lose least accuracy in a given time.

The more a scale's path bends, the more evaluations it needs; the finer a scale, the more each of them costs. Both are
measured, and the best division of the time is found by trying all.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from flowar.config import FlowARConfig
from flowar.errors import FlowARError
from flowar.model import FlowAR
from flowar.sampling.jumps import powers_of_two
from flowar.sampling.schedule import Schedule, times_denser_near_data

COUNTS = (2, 3, 4, 5, 6, 8, 10, 12, 16)  # evaluations of a scale to choose from
EXACT = 48  # evaluations that leave nothing to gain
OTHERS = 8  # evaluations of the scales that are not being looked at
SOLVER = "dpm2m"  # of models that know velocities
TURNS = 3

Clock = Callable[[], float]


@dataclass(frozen=True)
class Measurements:
    """The errors and times of evaluations, for one model and batch size on this machine.

    Attributes:
        counts: the evaluations of a scale to choose from, ascending.
        errors: the root mean square distance, in standard deviations, that the final latents move by if a scale has so
            many evaluations, [K, len(counts)].
        seconds: the duration of one evaluation at each scale, [K].
        rest: the duration of everything else in a call, in seconds.
    """

    counts: tuple[int, ...]
    errors: npt.NDArray[np.float64]
    seconds: npt.NDArray[np.float64]
    rest: float


@dataclass(frozen=True)
class Plan:
    """The evaluations of every scale, the seconds that a call then takes, and the error to expect."""

    counts: tuple[int, ...]
    seconds: float
    error: float


def counts_of(config: FlowARConfig) -> tuple[int, ...]:
    """The evaluations of a scale that a model may choose from: for one of jumps, as many as it has learned."""
    return tuple(powers_of_two(config.jumps)) if config.jumps else COUNTS


def plan_schedule(model: FlowAR, counts: Sequence[int]) -> Schedule:
    """The schedule with these numbers of evaluations, under the model's own guidance; a model of jumps jumps."""
    config = model.config
    times = [times_denser_near_data(count) for count in counts]
    solver = "jump" if config.jumps else SOLVER
    return Schedule(times, config.guidance_scale, config.guidance_interval, solver=solver)


@torch.inference_mode()
def measure(
    model: FlowAR,
    batch_size: int,
    dtype: str = "auto",
    advance: Callable[[], None] = lambda: None,
    clock: Clock = time.perf_counter,
) -> Measurements:
    """Measure errors and times by drawing `batch_size` images again and again.

    Args:
        model: the model.
        batch_size: the number of images of a call.
        dtype: the dtype of the networks, see `FlowAR.sample`.
        advance: a function that is called `measuring_steps` times.
        clock: the clock, in seconds.
    """
    scales, counts = len(model.config.grids), counts_of(model.config)
    most, others = (counts[-1], min(OTHERS, counts[-1])) if model.config.jumps else (EXACT, OTHERS)
    labels = torch.arange(batch_size) % model.config.num_classes
    device = model.ar_transformer.input_positions.device

    def latents(plan: Sequence[int]) -> torch.Tensor:
        advance()
        return model.sample(labels, schedule=plan_schedule(model, plan), dtype=dtype, progress=False)

    def lasting(count: int) -> list[float]:
        """The seconds of every scale, then of the whole call."""
        ends = []

        def mark(*_: object) -> None:
            if device.type != "cpu":
                torch.accelerator.synchronize(device)
            ends.append(clock())

        schedule = plan_schedule(model, [count] * scales)
        mark()
        model.sample(labels, schedule=schedule, dtype=dtype, progress=False, on_scale=mark)
        mark()
        advance()
        return [*np.diff(ends[:-1]), ends[-1] - ends[0]]

    errors = np.zeros((scales, len(counts)))
    for k in range(scales):
        around = [others] * scales
        exact = latents([*around[:k], most, *around[k + 1 :]])
        for i, count in enumerate(counts):
            moved = latents([*around[:k], count, *around[k + 1 :]]) - exact
            errors[k, i] = (moved.square().mean().sqrt() / exact.std()).item()
    few, many = counts[len(counts) // 4], counts[-1 - len(counts) // 8]
    times: dict[int, list[list[float]]] = {few: [], many: []}
    for _ in range(TURNS + 1):
        for count, found in times.items():
            found.append(lasting(count))
    # The first turn warms up: buffers, and on a GPU graphs.
    medians = {count: np.median(found[1:], axis=0) for count, found in times.items()}
    # Of a model that can jump only once, all that it takes is the rest.
    seconds = np.maximum((medians[many][:-1] - medians[few][:-1]) / max(1, many - few), 0.0)
    return Measurements(counts, errors, seconds, max(0.0, float(medians[few][-1] - few * seconds.sum())))


def measuring_steps(config: FlowARConfig) -> int:
    """The number of times that `measure` calls `advance`."""
    counts = counts_of(config)
    return len(config.grids) * (1 + len(counts)) + min(2, len(counts)) * (TURNS + 1)


def frontier(measured: Measurements) -> list[Plan]:
    """The plans that no other beats in both time and error, from the quickest to the most exact.

    Errors of scales are taken to be independent: their squares add up.
    """
    choices = np.array([*itertools.product(range(len(measured.counts)), repeat=len(measured.seconds))])  # [all, K]
    scales = np.arange(len(measured.seconds))
    errors = np.sqrt((measured.errors[scales, choices] ** 2).sum(1))
    seconds = measured.rest + (np.array(measured.counts)[choices] * measured.seconds).sum(1)
    plans, best = [], np.inf
    for index in np.lexsort((errors, seconds)):
        if errors[index] < best:
            best = errors[index]
            counts = tuple(measured.counts[choice] for choice in choices[index])
            plans.append(Plan(counts, float(seconds[index]), float(best)))
    return plans


def choose(plans: Sequence[Plan], target_seconds: float) -> Plan:
    """The most exact of the plans that take at most `target_seconds`.

    Raises:
        FlowARError: if none does, with what the quickest takes.
    """
    affordable = [plan for plan in plans if plan.seconds <= target_seconds]
    if not affordable:
        least = f"at least {1e3 * plans[0].seconds:.4g}, which {'+'.join(map(str, plans[0].counts))} evaluations take"
        raise FlowARError(f"target_ms: expected {least}, got {1e3 * target_seconds:.4g}")
    return affordable[-1]


def table(plans: Sequence[Plan], chosen: Plan, rows: int = 12) -> str:
    """The frontier as a table, thinned out to about `rows`, with the chosen plan marked."""
    some = {round(index) for index in np.linspace(0, len(plans) - 1, min(rows, len(plans)))} | {plans.index(chosen)}
    lines = [f"{'ms':>8}  {'error':>7}  evaluations of the scales"]
    for index in sorted(some):
        plan, mark = plans[index], "  <" if plans[index] == chosen else ""
        lines.append(f"{1e3 * plan.seconds:8.1f}  {plan.error:7.4f}  {' '.join(map(str, plan.counts))}{mark}")
    return "\n".join(lines)
