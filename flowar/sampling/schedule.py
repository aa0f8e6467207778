"""When the ODE of each scale is evaluated, by which solver, and how strongly guidance acts there."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from flowar.errors import FlowARError, did_you_mean, shortened, shown
from flowar.sampling.solvers import METHODS, Evaluation
from flowar.system.arguments import check_integer, check_number
from flowar.system.files import write_json
from flowar.system.rules import GUIDANCE, STEPS, expanded
from flowar.system.structured import read_json

Times = tuple[float, ...]

# What guidance grows by from the first scale (0) to the last (1).
GROWTHS: dict[str, Callable[[float], float]] = {
    "linear": lambda x: x,
    "constant": lambda x: 1.0,
    "cosine": lambda x: (1 - math.cos(math.pi * x)) / 2,
}


@dataclass(frozen=True)
class Schedule:
    """How the ODEs of all scales are integrated, from noise (time 1) to data (time 0), and guided.

    Attributes:
        times: strictly decreasing from 1 to 0; a step goes from each to the next. One grid for all scales, or a list of
            grids, one per scale.
        guidance_scale: w at the last scale; scale k of K is guided by `1 + (w - 1) g(k / (K - 1))`. Two are special: 1
            leaves the velocity of the class as it is, and 0 draws without a class, at every scale and time.
        guidance_interval: guidance acts where low <= t <= high, t the time of an evaluation.
        guidance_growth: g: "linear", as published, "constant" (1 at all scales) or "cosine".
        solver: "euler", as published, "midpoint", "heun", "ab2" or "dpm2m", or "jump" for distilled models, see
            `flowar.sampling.solvers`; or a list, one per scale.

    Raises:
        ValueError: for times, numbers or names out of range, saying what was expected and what came.
    """

    times: Sequence[float] | Sequence[Sequence[float]]
    guidance_scale: float = 1.0
    guidance_interval: Sequence[float] = (0.0, 1.0)
    guidance_growth: str = "linear"
    solver: str | Sequence[str] = "euler"

    def __post_init__(self) -> None:
        times, solver = plain(self.times), self.solver
        several = isinstance(times, Sequence) and bool(times) and not is_number(plain(times[0]))
        grids = tuple(checked_times(grid) for grid in (times if several else [times]))
        object.__setattr__(self, "times", grids if several else grids[0])
        object.__setattr__(self, "guidance_interval", numbers("guidance_interval", self.guidance_interval))
        object.__setattr__(self, "guidance_scale", plain(self.guidance_scale))
        scale = self.guidance_scale
        if not (is_number(scale) and GUIDANCE.low <= scale <= GUIDANCE.high):
            raise FlowARError(f"guidance_scale: expected {GUIDANCE.expected(float)}, got {shown(scale)}")
        interval = self.guidance_interval
        if len(interval) != 2 or not 0 <= interval[0] <= interval[1] <= 1:
            raise FlowARError(f"guidance_interval: expected 0 <= low <= high <= 1, got {shown(interval)}")
        check_name("guidance_growth", self.guidance_growth, GROWTHS)
        if not isinstance(solver, str):
            if not isinstance(solver, Sequence) or not solver:
                raise FlowARError(f"solver: expected a name or a list of names, got {shown(solver)}")
            object.__setattr__(self, "solver", tuple(solver))
        for name in [solver] if isinstance(solver, str) else solver:
            check_name("solver", name, METHODS)

    @staticmethod
    def published(
        num_inference_steps: int, guidance_scale: float, guidance_interval: Sequence[float] = (0.0, 1.0)
    ) -> Schedule:
        """The authors' time grids: 25 "steps" are 24 evaluations, denser near the data; any other number is uniform.

        Raises:
            ValueError: unless `num_inference_steps` is an integer from 1 to 10,000.
        """
        steps = plain(num_inference_steps)
        if not (is_number(steps) and isinstance(steps, int) and STEPS.low <= steps <= STEPS.high):
            raise FlowARError(f"num_inference_steps: expected {STEPS.expected(int)}, got {STEPS.got(steps)}")
        return Schedule(published_times(steps), guidance_scale, guidance_interval)

    @staticmethod
    def load(path: str | Path) -> Schedule:
        """Read the schedule that `save` wrote.

        Raises:
            ValueError: if the file cannot be read, or holds no schedule, naming it.
        """
        values = read_json(expanded(path), dict, FlowARError)
        try:
            return Schedule.from_dict(values)
        except ValueError as error:
            raise FlowARError(f"{path}: {error}") from error

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Schedule:
        """The schedule that `to_dict` gave as plain data.

        Raises:
            ValueError: for fields that a schedule does not have, or values that it does not take.
        """
        names = {field.name for field in fields(Schedule)}
        if not isinstance(values, Mapping) or not {"times"} <= {*values} <= names:
            got = ", ".join(map(str, values)) if isinstance(values, Mapping) else type(values).__name__
            raise FlowARError(f"schedule: expected times and any of {', '.join(sorted(names - {'times'}))}; got {got}")
        return Schedule(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain data: numbers, strings, lists and tuples of them."""
        return asdict(self)

    def save(self, path: str | Path) -> None:
        """Write a JSON file. Raises OSError if that fails; a file that was there stays as it was."""
        write_json(expanded(path), self.to_dict())

    def grid(self, scale: int) -> Times:
        """The times of one scale. Raises ValueError for a scale that a list of grids does not have."""
        if not self._several("times"):
            return self.times  # type: ignore[return-value]
        check_scale(scale, len(self.times))
        return self.times[scale]  # type: ignore[return-value]

    def solver_of(self, scale: int) -> str:
        """The name of the solver of one scale. Raises ValueError for a scale that a list of names does not have."""
        if isinstance(self.solver, str):
            return self.solver
        check_scale(scale, len(self.solver))
        return self.solver[scale]

    def check_scales(self, num_scales: int) -> Schedule:
        """This schedule, if it is one for a model of `num_scales`.

        Raises:
            ValueError: if it has a list, one per scale, of another length.
        """
        check_scale(0, num_scales)
        for name, value in (("times", self.times), ("solver", self.solver)):
            if self._several(name) and len(value) != num_scales:
                raise FlowARError(f"{name}: expected one for all scales or a list of {num_scales}, got {len(value)}")
        return self

    def evaluations(self, scale: int, num_scales: int) -> tuple[Evaluation, ...]:
        """The evaluations of the ODE at one scale. A solver that looks back starts anew where guidance changes.

        Raises:
            ValueError: for a scale that is not one of so many, or that this schedule says nothing of.
        """
        check_scale(scale, num_scales)
        return _evaluations(self, scale, num_scales)

    def guidance_weights(self, scale: int, num_scales: int) -> list[float]:
        """The weight of every evaluation at one scale; 1 means that guidance does nothing there.

        Raises:
            ValueError: as `evaluations`.
        """
        evaluations, weight = self.evaluations(scale, num_scales), self._weight(scale, num_scales)
        return [weight(each.time) for each in evaluations]

    def guidance(self, scale: int, num_scales: int) -> float:
        """The weight at one scale where guidance acts."""
        if self.guidance_scale == 0:
            return 0.0
        growth = GROWTHS[self.guidance_growth](scale / (num_scales - 1) if num_scales > 1 else 1.0)
        return 1 + (self.guidance_scale - 1) * growth

    @property
    def active_interval(self) -> tuple[float, float]:
        """The times from low to high at which guidance acts: `guidance_interval`, but all where the scale is 0."""
        low, high = (0.0, 1.0) if self.guidance_scale == 0 else self.guidance_interval
        return low, high

    def num_evaluations(self, num_scales: int) -> int:
        """The number of velocities asked for at all scales; both halves of guidance count as one."""
        check_scale(0, num_scales)
        return sum(len(self.evaluations(scale, num_scales)) for scale in range(num_scales))

    def describe(self, num_scales: int) -> str:
        """A table in text: solver, steps, evaluations and guidance of every scale."""
        check_scale(0, num_scales)
        rows = ["scale  solver    steps  evaluations  guidance"]
        for k in range(num_scales):
            weights = self.guidance_weights(k, num_scales)
            steps, most = len(self.grid(k)) - 1, max(weights, key=lambda weight: abs(weight - 1))
            rows.append(f"{k:<5}  {self.solver_of(k):<8}  {steps:>5}  {len(weights):>11}  {most:.3g}")
        low, high = self.active_interval
        return "\n".join([*rows, f"guidance where {low:g} <= t <= {high:g}"])

    def _weight(self, scale: int, num_scales: int) -> Callable[[float], float]:
        weight, (low, high) = self.guidance(scale, num_scales), self.active_interval
        return lambda t: weight if low <= t <= high else 1.0

    def _several(self, name: str) -> bool:
        value = getattr(self, name)
        return not isinstance(value, str) and isinstance(value[0], tuple if name == "times" else str)


@lru_cache(maxsize=256)
def _evaluations(schedule: Schedule, scale: int, num_scales: int) -> tuple[Evaluation, ...]:
    """`Schedule.evaluations`, kept: every call of `sample` asks for them, and a replayed graph should not wait."""
    times, weight = schedule.grid(scale), schedule._weight(scale, num_scales)
    restarts = {following for t, following in pairwise(times) if weight(t) != weight(following)}
    return tuple(METHODS[schedule.solver_of(scale)](times, restarts))


def check_scale(scale: int, num_scales: int) -> None:
    """Check that a scale is one of so many.

    Raises:
        ValueError: naming the one of both that cannot be.
    """
    if not (isinstance(num_scales, int) and isinstance(scale, int) and 0 <= scale < num_scales):
        check_integer("scale", scale, 0, check_integer("num_scales", num_scales) - 1)


def published_times(steps: int) -> list[float]:
    """The authors' grid for a number of "steps"."""
    if steps == 25:
        return [*np.linspace(1, 0.3, 12).tolist(), *np.linspace(0.25, 0, 13).tolist()]
    return uniform_times(steps)


def uniform_times(steps: int) -> list[float]:
    """`steps` equal steps from 1 to 0. Raises ValueError for what is no positive integer."""
    steps = check_integer("steps", steps)
    # In float64: floor(1000 t) of the time embedding tells 0.98 from its float32 neighbour below.
    times: list[float] = np.linspace(1, 0, steps + 1).tolist()
    return times


def times_denser_near_data(steps: int, power: float = 2.0) -> list[float]:
    """The times `(1 - i / steps) ** power`: the paths of flow models bend where noise has almost gone.

    Raises:
        ValueError: for steps that are no positive integer, and a power that is no positive number.
    """
    power = check_number("power", power, positive=True)
    return [t**power for t in uniform_times(steps)]


def checked_times(times: Any) -> Times:
    """One grid as a tuple of floats.

    Raises:
        ValueError: unless they decrease strictly from 1 to 0, in at most 10,000 steps.
    """
    grid = numbers("times", times)
    if len(grid) < 2 or not all(a > b for a, b in pairwise(grid)) or grid[0] != 1 or grid[-1] != 0:
        raise FlowARError(f"times: expected strictly decreasing values from 1 to 0, got {shown(grid)}")
    if len(grid) > STEPS.high + 1:
        raise FlowARError(f"times: expected {STEPS.expected(int)} as the number of steps, got {len(grid) - 1}")
    return grid


def numbers(name: str, values: Any) -> Times:
    """A sequence of numbers as floats.

    Raises:
        ValueError: for anything else.
    """
    values = plain(values)
    found: list[Any] = [plain(each) for each in values] if isinstance(values, Sequence) else [None]
    if not all(map(is_number, found)):
        raise FlowARError(f"{name}: expected numbers, got {shown(values)}")
    return tuple(map(float, found))


def is_number(value: object) -> bool:
    """Whether a value is a finite number of Python."""
    of_kind = isinstance(value, (int, float)) and not isinstance(value, bool)
    return of_kind and -math.inf < value < math.inf  # type: ignore[operator]


def plain(value: Any) -> Any:
    """A number or an array of numpy or torch as Python's number or list; anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def check_name(what: str, name: str, known: Collection[str]) -> None:
    """Check that `name` is one of the `known` ones.

    Raises:
        ValueError: with the nearest of them.
    """
    if not isinstance(name, str) or name not in known:
        hint = did_you_mean(str(name), known)
        raise FlowARError(f"{what}: expected one of {', '.join(known)}, got {shortened(str(name), 80)}{hint}")
