"""Times, solvers, noise and pins of sampling: numbers without networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowar.system.lazy import lazy_names

if TYPE_CHECKING:
    from flowar.sampling.jumps import jump_schedule, jump_times
    from flowar.sampling.options import SamplingOptions
    from flowar.sampling.pins import Pins
    from flowar.sampling.presets import SCHEDULES, named_schedule
    from flowar.sampling.schedule import Schedule, times_denser_near_data, uniform_times
    from flowar.sampling.solvers import SOLVERS, Evaluation, integrate

__all__ = [
    "SCHEDULES",
    "SOLVERS",
    "Evaluation",
    "Pins",
    "SamplingOptions",
    "Schedule",
    "integrate",
    "jump_schedule",
    "jump_times",
    "named_schedule",
    "times_denser_near_data",
    "uniform_times",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "jumps": ["jump_schedule", "jump_times"],
        "options": ["SamplingOptions"],
        "pins": ["Pins"],
        "presets": ["SCHEDULES", "named_schedule"],
        "schedule": ["Schedule", "times_denser_near_data", "uniform_times"],
        "solvers": ["SOLVERS", "Evaluation", "integrate"],
    },
)
