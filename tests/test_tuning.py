"""Steps per scale for a time to spend."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import small_model
from torch import Tensor

from flowar import FlowARPipeline, Schedule
from flowar.cli import main
from flowar.errors import FlowARError
from flowar.evaluation.tuning import COUNTS, Measurements, choose, frontier, measure, measuring_steps, table
from flowar.tokenizers.pixel import PixelTokenizer


def halving(scales: int) -> Measurements:
    """Errors that fall with the square of the count, largest at the first scale; costs that grow with the scale."""
    errors = np.array([[1 / (1 + k) / count**2 for count in COUNTS] for k in range(scales)])
    return Measurements(COUNTS, errors, np.array([0.01 * 2**k for k in range(scales)]), 0.05)


def test_the_frontier_has_what_nothing_beats() -> None:
    measured = halving(3)
    plans = frontier(measured)
    assert all(a.seconds < b.seconds and a.error > b.error for a, b in itertools.pairwise(plans))
    for counts in itertools.product(COUNTS, repeat=3):
        seconds = 0.05 + float(np.dot(counts, measured.seconds))
        error = np.sqrt(sum(measured.errors[k, COUNTS.index(count)] ** 2 for k, count in enumerate(counts)))
        assert any(plan.seconds <= seconds + 1e-12 and plan.error <= error + 1e-12 for plan in plans)
    cheap = next(plan for plan in plans if plan.seconds > 0.3)
    assert cheap.counts[0] > cheap.counts[-1]  # cheap evaluations that gain much


def test_the_choice_is_the_best_that_fits() -> None:
    plans = frontier(halving(2))
    chosen = choose(plans, 0.3)
    assert chosen.seconds <= 0.3
    assert all(plan.error >= chosen.error for plan in plans if plan.seconds <= 0.3)
    assert choose(plans, 100.0).counts == (16, 16)
    with pytest.raises(FlowARError, match=r"target_ms: expected at least 110, which 2\+2 evaluations take, got 50"):
        choose(plans, 0.05)
    rows = table(plans, chosen).splitlines()
    assert [row for row in rows if row.endswith("<")] == [row for row in rows if f"{1e3 * chosen.seconds:8.1f}" in row]


def test_measurements_of_a_model() -> None:
    """A clock that ticks at every look: all scales cost nothing, and the rest is what was counted."""
    ticks, steps = itertools.count(), []
    measured = measure(small_model(), 2, "float32", lambda: steps.append(1), lambda: float(next(ticks)))
    assert len(steps) == measuring_steps(small_model().config)
    assert measured.counts == COUNTS
    assert measured.errors.shape == (3, len(COUNTS))
    assert (measured.errors[:, 0] > measured.errors[:, -1]).all()
    assert (measured.seconds == 0).all()
    assert measured.rest == 4  # the start, three scales, the end


STUDENT = {"schedule": "1-step", "guidance_scale": 1.0, "guidance_interval": (0.0, 1.0)}


@pytest.mark.parametrize(("jumps", "counts"), [(1, (1,)), (2, (1, 2)), (32, (1, 2, 4, 8, 16, 32))])
def test_measurements_of_a_student(jumps: int, counts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """It jumps, as often as it has learned; its finest schedule is what others are compared with."""
    model, steps, drawn = small_model(jumps=jumps, **STUDENT), [], []
    sample = model.sample

    def watched(*arguments: Any, **options: Any) -> Tensor:
        drawn.append(options["schedule"])
        return sample(*arguments, **options)

    monkeypatch.setattr(model, "sample", watched)
    measured = measure(model, 2, "float32", lambda: steps.append(1))
    assert measured.counts == counts
    assert len(steps) == measuring_steps(model.config)
    assert {(each.solver, each.guidance_scale) for each in drawn} == {("jump", 1.0)}
    assert {len(times) - 1 for each in drawn for times in each.times} == {*counts}
    assert (measured.errors[:, -1] == 0).all()
    assert (measured.errors[:, :-1] > 0).all()
    plans = frontier(measured)
    assert plans[-1].counts == (counts[-1],) * 3
    assert plans[-1].seconds > 0


class Clock:
    """What a call costs by a clock: so much for every evaluation of a scale, and for the rest at either end of it."""

    def __init__(self, seconds: Sequence[float], rest: float) -> None:
        self.seconds, self.rest, self.now, self.calls = seconds, rest, 0.0, 0

    def __call__(self) -> float:
        return self.now

    def sample(
        self, *_: object, schedule: Schedule, on_scale: Callable[[int, Tensor], None] | None = None, **__: object
    ) -> Tensor:
        latents = torch.randn(2, 3)
        if on_scale is None:
            return latents
        self.calls += 1
        slow = {1: 7.0, 2: 7.0, 5: 3.0, 6: 3.0}.get(self.calls, 1.0)  # to warm up, and because others are at work
        self.now += slow * self.rest / 4
        for k, seconds in enumerate(self.seconds):
            self.now += slow * seconds * (len(schedule.grid(k)) - 1)
            on_scale(k, latents)
        self.now += slow * self.rest * 3 / 4
        return latents


@pytest.mark.parametrize("fields", [{}, {"jumps": 2, **STUDENT}, {"jumps": 4, **STUDENT}, {"jumps": 64, **STUDENT}])
def test_times_of_a_model(fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost of an evaluation of each scale and of the rest, whatever the turns that took longer."""
    model, clock = small_model(**fields), Clock([0.25, 0.5, 2.0], 16.0)
    monkeypatch.setattr(model, "sample", clock.sample)
    measured = measure(model, 2, clock=clock)
    assert measured.seconds.tolist() == pytest.approx(clock.seconds)
    assert measured.rest == pytest.approx(clock.rest)


def test_times_of_a_single_jump(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing tells the evaluations from the rest, of which a call is made."""
    model, clock = small_model(jumps=1, **STUDENT), Clock([0.25, 0.5, 2.0], 16.0)
    monkeypatch.setattr(model, "sample", clock.sample)
    plans = frontier(measure(model, 2, clock=clock))
    assert [(plan.counts, plan.seconds) for plan in plans] == [((1, 1, 1), pytest.approx(18.75))]


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = PixelTokenizer(1, 2)
    FlowARPipeline(small_model(tokenizer=tokenizer.record()), tokenizer).save_pretrained(tmp_path / "model")
    output = tmp_path / "schedule.json"
    arguments = ["tune", "--model", str(tmp_path / "model"), "--batch_size", "2", "--output", str(output)]
    main([*arguments, "--target_ms", "1e6"])
    assert Schedule.load(output).solver == "dpm2m"
    assert len(Schedule.load(output).times) == 3
    lines = capsys.readouterr().out.splitlines()
    described = Schedule.load(output).describe(3).splitlines()
    assert lines[-1 - len(described) : -1] == described
    assert lines[-1].startswith(f"schedule in {output}")
    FlowARPipeline(small_model(jumps=2, tokenizer=tokenizer.record(), **STUDENT), tokenizer).save_pretrained(
        tmp_path / "model"
    )
    main([*arguments, "--target_ms", "1e6"])
    assert Schedule.load(output).solver == "jump"
    with pytest.raises(SystemExit):
        main([*arguments, "--target_ms", "0"])
    assert "target_ms: expected a number in (0, 1e+09], got 0.0" in capsys.readouterr().err
