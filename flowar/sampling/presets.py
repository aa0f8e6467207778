"""Schedules by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from flowar.sampling.jumps import jump_times, powers_of_two
from flowar.sampling.schedule import Schedule, check_name, published_times, times_denser_near_data, uniform_times
from flowar.system.arguments import check_integer, check_type

Grids = Sequence[float] | Sequence[Sequence[float]]


class Preset(NamedTuple):
    """Times and solver, and guidance where it is part of the preset; None leaves it to the model."""

    times: Callable[[int], Grids]  # for a number of scales
    solver: str = "euler"
    guidance_scale: float | None = None
    guidance_interval: tuple[float, float] | None = None


def same(times: Sequence[float]) -> Callable[[int], Grids]:
    """The same times for all scales."""
    return lambda scales: times


def annealed(first: int, last: int) -> Callable[[int], Grids]:
    """Uniform steps, `first` of them at the first scale, fewer and fewer down to `last` at the last."""
    return lambda scales: [uniform_times(round(steps)) for steps in np.linspace(first, last, scales)]


SCHEDULES = {
    # What the authors' code samples their models with; "25 steps" are 24, denser near the data.
    "published-s": Preset(same(published_times(25)), "euler", 4.3, (0.0, 0.9)),
    "published-l": Preset(same(published_times(25)), "euler", 2.4, (0.0, 0.9)),
    "published-h": Preset(same(published_times(50)), "euler", 2.4, (0.0, 0.7)),
    # 25 equal steps, without the published code's denser half.
    "paper": Preset(same(uniform_times(25))),
    # Diffusion step annealing (Zhao et al., arXiv 2505.20297): coarser scales decide more.
    "disa": Preset(annealed(25, 15)),
    # Fewer evaluations than half the published ones, nearer to the exact solution (benchmarks/README.md).
    "fast": Preset(same(times_denser_near_data(10)), "dpm2m"),
    # A fifth of them, for a first look.
    "draft": Preset(same(times_denser_near_data(5)), "dpm2m"),
}

# Of distilled models alone (`flowar distill`): so many evaluations a scale, without an unconditional half.
JUMP_SCHEDULES = {
    f"{steps}-step": Preset(same(jump_times(steps)), "jump", 1.0, (0.0, 1.0)) for steps in powers_of_two(4)
}


def schedule_names(jumps: int) -> list[str]:
    """The presets for a model that has learned so many jumps."""
    return [*(name for name, steps in zip(JUMP_SCHEDULES, powers_of_two(4), strict=True) if steps <= jumps), *SCHEDULES]


def named_schedule(name: str, num_scales: int, guidance_scale: float, guidance_interval: Sequence[float]) -> Schedule:
    """The preset `name`, or the schedule in a `.json` file, see `Schedule.save`.

    Args:
        guidance_scale, guidance_interval: of the model, for presets that have none of their own.

    Raises:
        ValueError: for a name that is neither, with the nearest preset, or a file that holds no schedule.
        OSError: if the file cannot be read.
    """
    check_type("schedule", name, str, "a name")
    check_integer("num_scales", num_scales)
    if name.endswith(".json"):
        return Schedule.load(name)
    presets = SCHEDULES | JUMP_SCHEDULES
    check_name("schedule", name, presets)
    preset = presets[name]
    scale = guidance_scale if preset.guidance_scale is None else preset.guidance_scale
    interval = preset.guidance_interval or guidance_interval
    return Schedule(preset.times(num_scales), scale, interval, solver=preset.solver)
