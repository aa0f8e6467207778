"""Time grids and guidance weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowar import Schedule
from flowar.sampling.presets import SCHEDULES, named_schedule
from flowar.sampling.schedule import times_denser_near_data, uniform_times


def test_25_steps_are_the_published_24_evaluations() -> None:
    times = Schedule.published(25, 4.3).times
    assert len(times) == 25
    np.testing.assert_allclose(times[:12], np.linspace(1, 0.3, 12))
    np.testing.assert_allclose(times[12:], np.linspace(0.25, 0, 13), atol=1e-15)


@pytest.mark.parametrize("steps", [1, 2, 24, 50])
def test_other_numbers_of_steps_are_uniform(steps: int) -> None:
    np.testing.assert_allclose(Schedule.published(steps, 1.0).times, np.linspace(1, 0, steps + 1))


def test_times_denser_near_the_data() -> None:
    assert times_denser_near_data(4) == [1.0, 0.5625, 0.25, 0.0625, 0.0]
    assert times_denser_near_data(4, 1.0) == uniform_times(4)


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
    with pytest.raises(ValueError, match="num_inference_steps: expected an integer from 1 to 10000, got"):
        Schedule.published(steps, 1.0)


def test_growth_of_guidance_over_scales() -> None:
    weights = {
        growth: [Schedule((1, 0), 5.0, guidance_growth=growth).guidance_weights(k, 3)[0] for k in range(3)]
        for growth in ("linear", "constant", "cosine")
    }
    assert weights == {"linear": [1, 3, 5], "constant": [5, 5, 5], "cosine": [1, pytest.approx(3), pytest.approx(5)]}


def test_a_grid_and_a_solver_per_scale() -> None:
    schedule = Schedule([[1, 0], [1, 0.5, 0]], 3.0, solver=["heun", "ab2"])
    assert [len(schedule.evaluations(k, 2)) for k in range(2)] == [2, 2]
    assert schedule.num_evaluations(2) == 4
    assert [each.time for each in schedule.evaluations(0, 2)] == [1, 0]
    assert hash(schedule) == hash(Schedule([[1, 0], [1, 0.5, 0]], 3.0, solver=["heun", "ab2"]))
    with pytest.raises(ValueError, match="times: expected one for all scales or a list of 3, got 2"):
        schedule.check_scales(3)


@pytest.mark.parametrize("asked", [Schedule.evaluations, Schedule.guidance_weights])
@pytest.mark.parametrize("scale", [-1, 3])
def test_a_scale_that_there_is_none_of(asked: Callable[[Schedule, int, int], Any], scale: int) -> None:
    schedule = Schedule.published(4, 2.0)
    assert len(asked(schedule, 0, 3)) == 4
    with pytest.raises(ValueError, match=f"scale: expected .*, got {scale}"):
        asked(schedule, scale, 3)


def test_guidance_of_every_evaluation() -> None:
    """Of a midpoint, the weight at its own time; and a solver that looks back begins anew where the weight changes."""
    schedule = Schedule((1, 0.5, 0), 3.0, (0.0, 0.8), "constant", "midpoint")
    assert schedule.guidance_weights(0, 1) == [1, 3, 3, 3]
    looks_back = Schedule((1, 0.75, 0.5, 0.25, 0), 3.0, (0.0, 0.6), "constant", "ab2")
    assert [len(each.updates) for each in looks_back.evaluations(0, 1)] == [1, 2, 1, 2]


@pytest.mark.parametrize(
    "schedule", [Schedule((1, 0)), Schedule([[1, 0], [1, 0.3, 0]], 2.5, (0.1, 0.7), "cosine", ["heun", "ab2"])]
)
def test_files(schedule: Schedule, tmp_path: Path) -> None:
    schedule.save(tmp_path / "schedule.json")
    assert Schedule.load(tmp_path / "schedule.json") == schedule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 0]", "expected a JSON object, got list"),
        ('{"steps": 3}', "schedule: expected times and any of guidance_growth.*; got steps"),
        ('{"times": [1, 0.5]}', "times: expected strictly decreasing values from 1 to 0"),
        ('{"times": 5}', "times: expected numbers, got 5"),
        ('{"times": [1, 0], "guidance_scale": "2"}', r"guidance_scale: expected a number in \[0, 1000\], got '2'"),
        ("{", "Expecting"),
    ],
)
def test_files_that_hold_no_schedule(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ValueError, match=f"bad.json: .*{message}"):
        Schedule.load(tmp_path / "bad.json")


def test_a_table_to_read() -> None:
    table = Schedule([[1, 0], [1, 0.5, 0]], 3.0, (0, 0.9), solver=["heun", "ab2"]).describe(2).splitlines()
    assert [line.split() for line in table[1:3]] == [["0", "heun", "1", "2", "1"], ["1", "ab2", "2", "2", "3"]]
    assert table[3] == "guidance where 0 <= t <= 0.9"


@pytest.mark.parametrize("name", SCHEDULES)
def test_presets(name: str) -> None:
    schedule = named_schedule(name, 5, 3.1, (0.0, 0.5)).check_scales(5)
    own = {"published-s": 4.3, "published-l": 2.4, "published-h": 2.4}
    assert schedule.guidance_scale == own.get(name, 3.1)
    published = Schedule.published(25, 1.0).num_evaluations(5)
    shares = {"published-h": 50 / 24, "paper": 25 / 24, "disa": 20 / 24, "fast": 10 / 24, "draft": 5 / 24}
    assert schedule.num_evaluations(5) == pytest.approx(published * shares.get(name, 1), abs=1)


def test_annealed_steps() -> None:
    schedule = named_schedule("disa", 5, 1.0, (0.0, 1.0))
    assert [len(schedule.grid(k)) - 1 for k in range(5)] == [25, 22, 20, 18, 15]


def test_names_that_are_none() -> None:
    with pytest.raises(ValueError, match=r"schedule: expected one of published-s.*, got fats; did you mean fast"):
        named_schedule("fats", 5, 1.0, (0.0, 1.0))
    with pytest.raises(ValueError, match=r"solver: expected one of euler.*, got dpm2; did you mean dpm2m"):
        Schedule((1, 0), solver="dpm2")
    with pytest.raises(ValueError, match="guidance_growth: expected one of linear"):
        Schedule((1, 0), guidance_growth="none")
