"""Models of jumps: what they are told, the schedules that they take, and that the engine draws the same with them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import error, inference_plan, small_model

from flowar import FlowAR, FlowARConfig, Schedule
from flowar.sampling.callbacks import Callbacks
from flowar.sampling.jumps import jump_schedule, jump_times, powers_of_two
from flowar.sampling.noise import image_seeds
from flowar.sampling.presets import JUMP_SCHEDULES, schedule_names
from flowar.training.distillation import new_student

BLOCKS = ("attn_mlp", "attn_cross_mlp")


def student(seed: int = 0, **fields: Any) -> FlowAR:
    """A small model that has learned up to eight jumps, and whose embedding of them matters."""
    return small_model(seed, jumps=8, schedule="2-step", guidance_scale=1.0, **fields)


@pytest.mark.parametrize("flow_block", BLOCKS)
@pytest.mark.parametrize("schedule", [*JUMP_SCHEDULES, "draft"])
def test_the_engine_draws_what_the_definition_does(flow_block: Any, schedule: str) -> None:
    model, labels = student(flow_block=flow_block), [0, 3, 4]
    naive = model.sample(labels, schedule=schedule, dtype="float32", naive=True)
    assert error(model.sample(labels, schedule=schedule, dtype="float32"), naive) < 2e-5


def test_pictures_do_not_depend_on_their_batch() -> None:
    model = student()
    together = model.sample([0, 1, 2], seed=[5, 6, 7], dtype="float32")
    alone = [model.sample([label], seed=[5 + label], dtype="float32") for label in range(3)]
    assert error(torch.cat(alone), together) < 1e-5


def test_the_end_of_a_jump_matters_and_is_its_begin_if_left_out() -> None:
    model = student()
    x, t, z = torch.randn(2, 4, 4), torch.tensor([1.0, 0.25]), torch.randn(2, 4, 32)
    at_once = model.velocity(x, t, z)
    assert torch.equal(model.velocity(x, t, z, t), at_once)
    assert error(model.velocity(x, t, z, torch.zeros(2)), at_once) > 0.1
    with pytest.raises(ValueError, match=r"r: expected shape \[2\], got \[3\]"):
        model.velocity(x, t, z, torch.zeros(3))


def test_a_new_student_moves_as_its_teacher_does() -> None:
    """Its embedding of jumps begins at zero: by jumps it draws what Euler's method draws with its teacher."""
    teacher = small_model()
    drawn = new_student(teacher, 8).sample([1, 2], schedule="4-step", dtype="float32")
    expected = teacher.sample([1, 2], schedule=Schedule(jump_times(4)), dtype="float32")
    assert error(drawn, expected) < 1e-5


def test_one_evaluation_a_jump_without_a_second_half() -> None:
    plan = inference_plan(student(), torch.float32)
    rows = []
    plan.networks.flow.input_proj.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    embedded = []
    plan.networks.flow.jump_embed.register_forward_pre_hook(lambda _, inputs: embedded.append(len(inputs[0])))
    plan.sample(torch.tensor([1, 2, 3]), jump_schedule(4), image_seeds(0, 3), Callbacks())
    assert rows == [3] * 4 * 3
    assert embedded == [4]  # once for all scales


def test_schedules_by_name_and_by_number_are_the_same() -> None:
    config = student().config
    assert config.make_schedule(4) == config.make_schedule(base="4-step") == jump_schedule(4)
    assert config.make_schedule() == jump_schedule(2)
    assert schedule_names(0)[0] == "published-s"
    assert schedule_names(2)[:3] == ["1-step", "2-step", "published-s"]
    assert powers_of_two(8) == [1, 2, 4, 8]


def test_more_jumps_at_coarse_scales() -> None:
    model = student()
    mixed = Schedule([jump_times(8), jump_times(2), jump_times(1)], solver="jump")
    assert error(model.sample([1], schedule=mixed), model.sample([1], schedule=mixed, naive=True)) < 2e-5
    assert Schedule.from_dict(mixed.to_dict()) == mixed


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (student, {"num_inference_steps": 3}, r"those of 1, 2, 4, 8 a scale, got one from 1 to 0\.444"),
        (student, {"num_inference_steps": 16}, "schedule: expected jumps of this model"),
        (student, {"schedule": Schedule((1, 0.5, 0), solver="jump")}, "got one from 1 to 0.5"),
        (
            student,
            {"guidance_scale": 2.0},
            "guidance_scale: expected 1 for a model of jumps, which has it inside, got 2",
        ),
        (student, {"schedule": "published-s"}, "guidance_scale: expected 1 for a model of jumps"),
        (small_model, {"schedule": "2-step"}, "expected no jumps of a model that was not distilled"),
    ],
)
def test_what_a_model_has_not_learned_is_refused(model: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model().sample([1], **options)


@pytest.mark.parametrize("jumps", [3, -2, 1.0, True])
def test_numbers_of_jumps_that_there_are_none_of(jumps: Any) -> None:
    with pytest.raises(ValueError, match=r"jumps: expected (0 or a power of two|an integer)"):
        FlowARConfig(jumps=jumps, guidance_scale=1.0)


def test_guidance_of_a_model_that_has_it_inside() -> None:
    with pytest.raises(ValueError, match="guidance_scale: expected 1 for a model of jumps"):
        FlowARConfig(jumps=4)
    assert FlowARConfig.from_dict({}).jumps == 0  # a file of before
    assert replace(FlowARConfig(), jumps=4, guidance_scale=1.0).jumps == 4
