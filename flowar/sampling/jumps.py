"""The jumps of distilled models: which ones there are, and the schedules of them.

A model of jumps knows the mean velocity over intervals of time, those that halving [0, 1] again and again gives on an
axis s with t = s * s, where times are denser near the data. So `n` jumps lead from noise to data for every power of two
up to the finest that it has learned.
"""

from __future__ import annotations

from collections.abc import Iterable

from flowar.sampling.schedule import Schedule, Times, times_denser_near_data
from flowar.sampling.solvers import Evaluation


def jump_times(steps: int) -> Times:
    """The times of `steps` equal jumps on the axis s."""
    return tuple(times_denser_near_data(steps))


def jump_schedule(steps: int) -> Schedule:
    """The schedule of `steps` jumps at every scale. Guidance is in the weights of the model that makes them."""
    return Schedule(jump_times(steps), solver="jump")


def powers_of_two(last: int) -> list[int]:
    """1, 2, 4, ... up to `last`."""
    return [1 << power for power in range(last.bit_length())]


def check_jumps(evaluations: Iterable[Evaluation], finest: int) -> None:
    """Check that a model whose finest schedule has `finest` jumps, 0 if it knows none, has learned these evaluations.

    Raises:
        ValueError: naming the first jump that it has not learned.
    """
    known = {
        (t, r)
        for steps in powers_of_two(finest)
        for t, r in zip(jump_times(steps), jump_times(steps)[1:], strict=False)
    }
    for each in evaluations:
        if each.arrival is not None and each.interval not in known:
            got = f"one from {each.time:g} to {each.arrival:g}"
            if not finest:
                raise ValueError(
                    f"schedule: expected no jumps of a model that was not distilled (flowar distill), got {got}"
                )
            steps = ", ".join(map(str, powers_of_two(finest)))
            raise ValueError(f"schedule: expected jumps of this model, which are those of {steps} a scale, got {got}")
