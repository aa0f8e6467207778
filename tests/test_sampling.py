"""Sampling: the recorded runs, the optimised path against the naive one, seeds, precision, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from conftest import TINY, error, needs_fp8, recorded_model, recording, small_model
from torch import Tensor

from flowar import FlowAR, Schedule
from flowar.errors import FlowARError
from flowar.sampling.noise import scale_noise
from flowar.sampling.solvers import SOLVERS
from flowar.show.states import ode_states
from flowar.system.precision import PRECISIONS

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "attn_mlp": {},
    "attn_cross_mlp": {"flow_block": "attn_cross_mlp"},
    "three channels, bilinear": {"latent_channels": 3, "upsample": "bilinear"},
    "rectangle": {"latent_size": (4, 6), "flow_block": "attn_cross_mlp"},
    "scales 1, 4, 16": {"latent_size": 16, "scales": (1, 4, 16)},
    "scales 1, 4, 8, 16": {"latent_size": 16, "scales": (1, 4, 8, 16), "flow_block": "attn_cross_mlp"},
    "one scale": {"latent_size": 1, "num_classes": 1},
    "norm of queries and keys": {"qk_norm": True},
    "norm of queries and keys, crosswise": {"qk_norm": True, "flow_block": "attn_cross_mlp"},
    "odd grid": {"latent_size": 7, "upsample": "bilinear", "num_classes": 12},
}


def check_recorded(name: str, naive: bool) -> None:
    recorded, got = recording(name), dict[int, Tensor]()
    latents = recorded_model(name).sample(
        recorded["sample.labels"],
        schedule=recorded.schedule(),
        noise=recorded.per_scale("sample.noise"),
        dtype="float32",
        naive=naive,
        on_scale=lambda k, tokens: got.update({k: tokens.clone()}),
    )
    assert latents.dtype == torch.float32
    assert sorted(got) == [0, 1, 2, 3, 4]
    for k, expected in enumerate(recorded.per_scale("sample.tokens")):
        assert error(got[k], expected) < 1e-4
    assert error(latents, recorded["sample.latents"]) < 1e-4


@pytest.mark.parametrize("name", TINY)
@pytest.mark.usefixtures("served_by")
def test_recorded_run(name: str) -> None:
    check_recorded(name, naive=False)


@pytest.mark.parametrize("name", TINY)
def test_recorded_run_naive(name: str) -> None:
    check_recorded(name, naive=True)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.usefixtures("served_by")
def test_recorded_run_by_default(name: str, either_default: str) -> None:
    """Float32 is near the recording; bfloat16 errs at most twice as much as autocast over the published algorithm."""
    recorded, model = recording(name), recorded_model(name)
    naive, optimised = (
        model.sample(
            recorded["sample.labels"],
            schedule=recorded.schedule(),
            noise=recorded.per_scale("sample.noise"),
            naive=naive,
        )
        for naive in (True, False)
    )
    assert model.precision().name == either_default
    expected = recorded["sample.latents"]
    if either_default == "float32":
        assert error(optimised, expected) < 1e-4
    else:
        errors = [(each - expected).square().mean().sqrt() for each in (naive, optimised)]
        assert 0 < errors[1] < 2 * errors[0] < 0.02 * expected.std()


@pytest.mark.slow
@pytest.mark.usefixtures("served_by")
def test_recorded_run_of_full_size() -> None:
    check_recorded("flowar_s", naive=False)


@pytest.mark.slow
def test_recorded_run_of_full_size_naive() -> None:
    check_recorded("flowar_s", naive=True)


@pytest.mark.parametrize("name", TINY)
def test_cached_steps_equal_the_teacher_forced_pass(name: str) -> None:
    """The conditions of the recorded scale-by-scale run, from one pass over all its scales."""
    recorded, model = recording(name), recorded_model(name)
    labels = recorded["sample.labels"]
    inputs = [model.pyramid.upsample(recorded[f"sample.tokens.{k - 1}"], k) for k in range(1, 5)]
    z = model.ar_transformer(torch.cat(inputs, 1), labels).split(list(model.config.scale_lengths), 1)
    for k, expected in enumerate(recorded.per_scale("sample.condition")):
        assert error(z[k], expected[: len(labels)]) < 1e-4


@pytest.mark.parametrize("qk_norm", [False, True])
def test_cached_steps_of_a_sampling_run(qk_norm: bool) -> None:
    model, got = small_model(qk_norm=qk_norm), list[Tensor]()
    labels = torch.arange(3)
    model.sample(labels, 2, 1.0, on_scale=lambda k, tokens: got.append(tokens.clone()))
    inputs = [model.pyramid.upsample(tokens, k + 1) for k, tokens in enumerate(got[:-1])]
    teacher_forced = model.ar_transformer(torch.cat(inputs, 1), labels)
    cache, modulations = model.ar_transformer.new_cache(3, torch.float32), model.ar_transformer.modulations(labels)
    cached = [model.ar_transformer.step(each, labels, modulations, cache) for each in (None, *inputs)]
    assert error(torch.cat(cached, 1), teacher_forced) < 1e-5


def test_norm_of_queries_and_keys_bounds_the_scores() -> None:
    """Queries and keys a thousand times as large change nothing under the norm."""
    for flow_block in ("attn_mlp", "attn_cross_mlp"):
        model = small_model(qk_norm=True, flow_block=flow_block)
        before = model.sample([0, 1], 2, 3.0, dtype="float32")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".attn.qkv." in name:
                    parameter[: 2 * len(parameter) // 3].mul_(1000)
                if ".cross.q." in name:
                    parameter.mul_(1000)
                if ".cross.kv." in name:
                    parameter[: len(parameter) // 2].mul_(1000)
        assert error(model.sample([0, 1], 2, 3.0, dtype="float32"), before) < 1e-3


@pytest.mark.parametrize("fields", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_optimised_equals_naive_after_a_training_step(fields: dict[str, Any]) -> None:
    model = small_model(**fields)
    config = model.config
    labels = torch.arange(3) % config.num_classes
    before = model.sample(labels, 6, 3.0, dtype="float32")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.loss(torch.randn(3, config.latent_channels, *config.grid), labels).loss.backward()
    optimizer.step()
    naive, optimised = (model.sample(labels, 6, 3.0, dtype="float32", naive=naive) for naive in (True, False))
    assert naive.shape == (3, config.latent_channels, *config.grid)
    assert error(optimised, naive) < 1e-4
    assert error(before, naive) > 1e-2


@pytest.mark.parametrize("flow_block", ["attn_mlp", "attn_cross_mlp"])
@pytest.mark.parametrize(
    ("scale", "interval"), [(1.0, (0.0, 1.0)), (0.0, (0.0, 1.0)), (5.0, (0.2, 0.6)), (5.0, (0.0, 0.0))]
)
def test_guidance(flow_block: Any, scale: float, interval: tuple[float, float]) -> None:
    model = small_model(flow_block=flow_block).double()
    arguments = ([0, 4], 8, scale, interval)
    naive, optimised = (model.sample(*arguments, naive=naive) for naive in (True, False))
    assert naive.dtype == torch.float64
    assert error(optimised, naive) < 1e-5
    plain = model.sample([0, 4], 8, 1.0)
    acts = scale != 1 and interval[1] > 0
    assert (error(naive, plain) > 1e-2) == acts


@pytest.mark.parametrize("naive", [False, True])
def test_data_that_velocities_point_at(naive: bool) -> None:
    """At every evaluation of both parts of guidance, and at a batch that a CPU otherwise divides."""
    model = small_model(num_inference_steps=4, guidance_scale=3.0, guidance_interval=(0.0, 0.7))
    labels, seen = torch.tensor([1, 3, 0, 2]), dict[tuple[int, int], Tensor]()
    with patch("flowar.engine.program.ACTIVATION_BUDGET", 1):
        plain = model.sample(labels, dtype="float32")
        got = model.sample(
            labels,
            dtype="float32",
            naive=naive,
            on_evaluation=lambda k, i, data: seen.update({(k, i): data.clone()}),
        )
    assert error(got, plain) < 1e-5
    assert [*seen] == [(k, i) for k in range(3) for i in range(4)]
    for k in range(3):
        for i, state in enumerate(ode_states(model, labels, 0, k, range(4))):
            assert error(seen[k, i], state.end) < 1e-4


def test_guidance_one_is_the_conditional_model() -> None:
    """By hand: Euler over the conditional velocity alone, scale after scale."""
    model = small_model()
    labels, schedule = torch.tensor([1, 3]), Schedule.published(5, 1.0)
    tokens: list[Tensor] = []
    with torch.no_grad():
        for k, x in enumerate(scale_noise(0, 2, model.config.scale_lengths, 4, torch.device("cpu"))):
            inputs = [model.pyramid.upsample(tokens[j - 1], j) for j in range(1, k + 1)]
            later = sum(model.config.scale_lengths[k + 1 :])
            padded = torch.cat([*inputs, torch.zeros(2, later, 4)], 1)
            z = model.ar_transformer(padded, labels).split(list(model.config.scale_lengths), 1)[k]
            for t, following in zip(schedule.times[:-1], schedule.times[1:], strict=True):
                x = x + (following - t) * model.velocity(x, torch.full((2,), t), z)
            tokens.append(x)
    assert error(model.sample(labels, schedule=schedule, dtype="float32"), model.pyramid.to_grid(tokens[-1], 2)) < 1e-5


@pytest.mark.usefixtures("either_default")
def test_image_depends_on_its_label_and_seed_alone() -> None:
    model = small_model()
    batch = model.sample([0, 1, 2, 3, 4], 6, 3.0, seed=7)
    for count in (1, 2, 4):
        assert error(model.sample(list(range(count)), 6, 3.0, seed=7), batch[:count]) < 1e-5
    assert error(model.sample([0, 1, 2, 3, 4], 6, 3.0, seed=8), batch) > 0.1
    single = model.sample([2], 6, 3.0, seed=11)
    assert error(model.sample([4, 2], 6, 3.0, seed=[5, 11])[1:], single) < 1e-5


@pytest.mark.usefixtures("either_default")
def test_noise_can_be_given_and_is_left_alone() -> None:
    model = small_model()
    noise = scale_noise(3, 2, model.config.scale_lengths, 4, torch.device("cpu"))
    copies = copy.deepcopy(noise)
    for naive in (True, False):
        given = model.sample([0, 1], 6, 3.0, noise=noise, naive=naive)
        assert all(map(torch.equal, noise, copies))
        assert torch.equal(given, model.sample([0, 1], 6, 3.0, seed=3, naive=naive))


@pytest.mark.usefixtures("either_default")
def test_settings_default_to_the_preset_of_the_model() -> None:
    model = small_model(num_inference_steps=5, guidance_scale=2.0, guidance_interval=(0.0, 0.5))
    own = model.sample([0, 1])
    assert torch.equal(own, model.sample([0, 1], 5, 2.0, (0.0, 0.5)))
    assert torch.equal(own, model.sample([0, 1], schedule=Schedule.published(5, 2.0, (0.0, 0.5))))
    assert not torch.equal(own, model.sample([0, 1], guidance_scale=3.0))


@pytest.mark.parametrize("flow_block", ["attn_mlp", "attn_cross_mlp"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_errs_no_more_than_autocast(flow_block: Any, dtype: torch.dtype) -> None:
    model = small_model(flow_block=flow_block)
    arguments = (torch.arange(5).repeat(2), 5, 3.0)
    exact = model.sample(*arguments, dtype="float32", naive=True)
    naive, optimised = (model.sample(*arguments, naive=naive, dtype=dtype) for naive in (True, False))
    cast = copy.deepcopy(model).to(dtype).sample(*arguments)
    allowed = 1.5 * (naive - exact).square().mean().sqrt()
    for low_precision in (optimised, cast):
        assert low_precision.dtype == torch.float32
        assert 0 < (low_precision - exact).square().mean().sqrt() < allowed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plan_follows_the_weights(dtype: torch.dtype) -> None:
    model, other = small_model(seed=0), small_model(seed=1)
    arguments = ([0, 1], 4, 3.0)
    first = model.sample(*arguments, dtype=dtype)
    precision = PRECISIONS[str(dtype).removeprefix("torch.")]
    plan = model._plan(precision)
    assert model._plan(precision) is plan
    model.load_state_dict(other.state_dict())
    assert torch.equal(model.sample(*arguments, dtype=dtype), other.sample(*arguments, dtype=dtype))
    with torch.no_grad():
        torch._foreach_lerp_([*model.parameters()], [*small_model(seed=0).parameters()], 1.0)
    assert error(model.sample(*arguments, dtype=dtype), first) < 1e-2


@pytest.mark.usefixtures("either_default")
def test_copies_hold_no_plan() -> None:
    model = small_model()
    precision = model.precision()
    plan = model._plan(precision)
    assert model._plan(precision) is plan
    assert copy.deepcopy(model)._plan(precision) is not plan


@pytest.mark.usefixtures("either_default")
def test_sampling_leaves_training_untouched() -> None:
    model = small_model().train()
    latents = model.sample([0, 1], 3, 2.0)
    assert model.training
    assert not latents.is_inference()
    model.loss(latents, torch.tensor([0, 1])).loss.backward()


def test_model_made_in_inference_mode() -> None:
    with torch.inference_mode():
        model = small_model()
        optimised = model.sample([0, 1], 4, 2.0, dtype="float32")
        assert error(optimised, small_model().sample([0, 1], 4, 2.0, dtype="float32", naive=True)) < 1e-5


@pytest.mark.parametrize("naive", [True, False])
def test_progress_bar_counts_every_step(naive: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    updates: list[int] = []
    monkeypatch.setattr("tqdm.tqdm.update", lambda bar, count=1: updates.append(count))
    model = small_model()
    model.sample([0], 4, naive=naive)
    assert not updates  # stderr is no terminal here
    model.sample([0], 4, naive=naive, progress=True)
    assert sum(updates) == 3 * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"noise": [torch.randn(2, 1, 4)]}, r"noise: expected tensors of shapes .*, got \[\[2, 1, 4\]\]"),
        ({"noise": [torch.randn(1, n, 4) for n in (1, 4, 16)]}, r"noise: .*\[2, 16, 4\]\], got .*\[1, 16, 4\]\]"),
        ({"seed": [1, 2, 3]}, "seed: expected one integer or 2"),
        ({"seed": 1.5}, "seed: expected one integer or 2"),
        ({"seed": None}, "seed: expected one integer or 2"),
        ({"num_inference_steps": 0}, "num_inference_steps: expected an integer from 1 to 10000, got 0"),
        ({"guidance_scale": -1.0}, r"guidance_scale: expected a number in \[0, 1000\], got -1.0"),
        ({"guidance_scale": float("nan")}, r"guidance_scale: expected a number in \[0, 1000\], got nan"),
        ({"guidance_interval": (0.9, 0.1)}, "guidance_interval: expected 0 <= low <= high <= 1"),
        ({"dtype": torch.int8}, "dtype: expected one of auto, float32.*got torch.int8"),
        pytest.param(
            {"dtype": "fp8", "naive": True}, "dtype: fp8 expects naive=False, got naive=True", marks=needs_fp8
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        small_model().sample([0, 1], **arguments)
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("either_default")
def test_seeds_of_any_integer_kind() -> None:
    model: FlowAR = small_model()
    expected = model.sample([0, 1], 2, seed=[3, 4])
    assert torch.equal(model.sample([0, 1], 2, seed=torch.tensor([3, 4])), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_in_the_engine_and_in_the_naive_path(solver: str) -> None:
    """With another grid and another solver at every scale, and guidance that begins on the way."""
    model, times = small_model(), [[1, 0.4, 0], [1, 0.7, 0.3, 0], [1, 0.8, 0.5, 0.2, 0]]
    schedule = Schedule(times, 2.5, (0.0, 0.75), "constant", ["euler", solver, solver])
    expected = model.sample([0, 3], schedule=schedule, dtype="float32", naive=True)
    assert error(model.sample([0, 3], schedule=schedule, dtype="float32"), expected) < 1e-5


@pytest.mark.usefixtures("either_default")
class TestScheduleOfAModel:
    def test_presets_take_the_guidance_of_the_model_or_of_the_call(self) -> None:
        model = small_model(guidance_scale=2.2, guidance_interval=(0.0, 0.6))
        fast = model.schedule(base="fast")
        assert (fast.guidance_scale, fast.guidance_interval, fast.solver) == (2.2, (0.0, 0.6), "dpm2m")
        assert model.schedule(base="fast", guidance_scale=3.0).guidance_scale == 3.0
        assert torch.equal(model.sample([1], schedule="fast"), model.sample([1], schedule=fast))

    def test_a_model_may_name_its_preset(self) -> None:
        model = small_model(schedule="draft")
        assert model.schedule() == model.schedule(base="draft")
        assert model.schedule(4).solver == "euler"  # a number of steps is the published kind of schedule
        with pytest.raises(ValueError, match=r"schedule: expected one of .*, got quick"):
            small_model(schedule="quick")

    def test_files(self, tmp_path: Path) -> None:
        model, schedule = small_model(), Schedule((1, 0.2, 0), 2.0, solver="heun")
        schedule.save(tmp_path / "own.json")
        assert model.schedule(base=str(tmp_path / "own.json")) == schedule
        with pytest.raises(FlowARError, match=r"other\.json: expected a JSON object, but reading it failed"):
            model.schedule(base=str(tmp_path / "other.json"))

    def test_what_does_not_go_together(self) -> None:
        model = small_model()
        with pytest.raises(ValueError, match="num_inference_steps: expected none beside a schedule, got 3"):
            model.sample([0], 3, schedule="fast")
        with pytest.raises(ValueError, match="times: expected one for all scales or a list of 3, got 2"):
            model.sample([0], schedule=Schedule([[1, 0], [1, 0]]))
