"""Time grids and guidance weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flowar import Schedule


def test_25_steps_are_the_published_24_evaluations() -> None:
    times = Schedule.published(25, 4.3).times
    assert len(times) == 25
    np.testing.assert_allclose(times[:12], np.linspace(1, 0.3, 12))
    np.testing.assert_allclose(times[12:], np.linspace(0.25, 0, 13), atol=1e-15)


@pytest.mark.parametrize("steps", [1, 2, 24, 50])
def test_other_numbers_of_steps_are_uniform(steps: int) -> None:
    np.testing.assert_allclose(Schedule.published(steps, 1.0).times, np.linspace(1, 0, steps + 1))


def test_guidance_grows_with_the_scale_inside_its_interval() -> None:
    schedule = Schedule((1, 0.9, 0.5, 0.1, 0), guidance_scale=5.0, guidance_interval=(0.1, 0.9))
    assert schedule.guidance_weights(0, 5) == [1, 1, 1, 1]
    assert schedule.guidance_weights(1, 5) == [1, 2, 2, 2]
    assert schedule.guidance_weights(4, 5) == [1, 5, 5, 5]
    assert schedule.guidance_weights(0, 1) == [1, 5, 5, 5]  # a single scale is the last one
    above = Schedule((1, 0.9, 0.5, 0.1, 0), 5.0, (0.2, 0.6))
    assert above.guidance_weights(4, 5) == [1, 1, 5, 1]


@pytest.mark.parametrize(
    "arguments",
    [
        {"times": (1,)},
        {"times": ()},
        {"times": (1, 0.5)},
        {"times": (0.9, 0)},
        {"times": (1, 0.5, 0.5, 0)},
        {"times": (1, 0), "guidance_scale": float("inf")},
        {"times": (1, 0), "guidance_interval": (0.5,)},
        {"times": (1, 0), "guidance_interval": (0.9, 0.1)},
    ],
)
def test_impossible_schedules(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^(times|guidance_scale|guidance_interval): expected .*, got "):
        Schedule(**arguments)


@pytest.mark.parametrize("steps", [0, -1, 2.5, "25", None])
def test_impossible_numbers_of_steps(steps: Any) -> None:
    with pytest.raises(ValueError, match="num_inference_steps: expected a positive integer, got"):
        Schedule.published(steps, 1.0)
