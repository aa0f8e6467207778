"""The engine: every saving by itself, programs as CUDA graphs (recorded and replayed without a GPU), their cache."""

from __future__ import annotations

import gc
import threading
import weakref
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from conftest import error, inference_plan, needs_fp8, small_model
from recorded_graph import VERSIONS, CudaApi
from torch import Tensor

from flowar import FlowAR, Schedule
from flowar.engine import cuda_graph
from flowar.engine import plan as plan_module
from flowar.engine import program as program_module
from flowar.engine import steering as steering_module
from flowar.engine.fp8 import Fp8Linear
from flowar.engine.packed import Savings
from flowar.engine.plan import InferencePlan, bucket
from flowar.sampling.callbacks import Callbacks
from flowar.sampling.noise import image_seeds, scale_noise
from flowar.system.precision import PRECISIONS

pytestmark = pytest.mark.usefixtures("either_default")

BLOCKS = ["attn_mlp", "attn_cross_mlp"]
SCHEDULE = Schedule.published(6, 3.0, (0.0, 0.8))


def run(
    plan: InferencePlan, labels: list[int], seed: int = 0, schedule: Schedule = SCHEDULE, **callbacks: Any
) -> Tensor:
    seeds = image_seeds(seed, len(labels))
    return plan.sample(torch.tensor(labels), schedule, seeds, Callbacks(**callbacks))


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> CudaApi:
    """Plans on the CPU take the path of a GPU; graphs are recorded and replayed by `recorded_graph`."""
    monkeypatch.setattr(cuda_graph, "available", lambda device: True)
    monkeypatch.setattr(plan_module, "memory_budget", lambda device: 2**30)
    return CudaApi().install(monkeypatch)


@pytest.mark.parametrize("flow_block", BLOCKS)
@pytest.mark.parametrize("name", [field.name for field in fields(Savings)])
def test_each_saving_leaves_the_numbers(flow_block: Any, name: str) -> None:
    model = small_model(flow_block=flow_block)
    every, without = inference_plan(model, torch.float32, Savings()), replace(Savings(), **{name: False})
    assert error(run(inference_plan(model, torch.float32, without), [0, 3]), run(every, [0, 3])) < 1e-5


@pytest.mark.parametrize("flow_block", BLOCKS)
def test_no_saving_at_all(flow_block: Any) -> None:
    model = small_model(flow_block=flow_block)
    none = Savings(**{field.name: False for field in fields(Savings)})
    assert (
        error(
            run(inference_plan(model, torch.float32, none), [0, 3]),
            run(inference_plan(model, torch.float32, Savings()), [0, 3]),
        )
        < 1e-5
    )


@pytest.mark.parametrize("budget", [0, 20_000, 2**30])
@pytest.mark.parametrize("flow_block", BLOCKS)
def test_memory_budget_of_modulations(flow_block: Any, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Block by block, several steps at once, all steps at once: the same numbers."""
    monkeypatch.setitem(steering_module.MODULATION_BUDGET, "cpu", budget)
    model = small_model(flow_block=flow_block)
    naive = model.sample([1, 2], schedule=SCHEDULE, naive=True, dtype="float32")
    assert error(model.pyramid.to_grid(run(inference_plan(model, torch.float32, Savings()), [1, 2]), 2), naive) < 1e-4


@pytest.mark.parametrize("budget", [1, 40_000])
@pytest.mark.parametrize("flow_block", BLOCKS)
def test_images_in_groups(flow_block: Any, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One by one, and three at a time at the middle scale: the same numbers, and every step counted once."""
    plan, labels = inference_plan(small_model(flow_block=flow_block), torch.float32), [1, 2, 0, 3, 1]
    together = run(plan, labels)
    monkeypatch.setattr(program_module, "ACTIVATION_BUDGET", budget)
    steps: list[int] = []
    sampled = plan.sample(torch.tensor(labels), SCHEDULE, image_seeds(0, 5), Callbacks(lambda: steps.append(1)))
    assert error(sampled, together) < 1e-5
    assert len(steps) == 3 * 6


def test_how_many_images_are_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU as many as the budget allows; all where somebody watches what happens inside."""
    plan = inference_plan(small_model(), torch.float32)
    monkeypatch.setattr(program_module, "ACTIVATION_BUDGET", 1)
    for watch, sizes in ((None, {1}), (lambda k, i, data: None, {5})):
        program = program_module.SamplingProgram(plan.networks, SCHEDULE, 5, None)
        program.callbacks = Callbacks(on_evaluation=watch)
        groups = program._groups(torch.zeros(5, 1, 3), torch.zeros(10, 1, 32))
        assert {len(range(5)[part]) for part, _ in groups} == sizes


def test_a_budget_between_two_numbers_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two and a half steps' worth of memory are two steps."""
    networks = inference_plan(small_model(), torch.float32).networks
    tables = steering_module.TimeTables(networks, torch.tensor([[1.0, 1.0]]))
    conditions = torch.zeros(2, 1, networks.flow.condition_embed.in_features)
    width = sum(layer.out_features for layer in steering_module.Steering(networks, tables, conditions, 0)._layers())
    monkeypatch.setitem(steering_module.MODULATION_BUDGET, "cpu", 5 * (2 * width * 4) // 2)
    steering = steering_module.Steering(networks, tables, conditions, 0)
    assert [*steering._chunks([2] * 5)] == [(0, 2), (2, 4), (4, 5)]


@pytest.mark.usefixtures("graphs")
@pytest.mark.parametrize("flow_block", BLOCKS)
def test_graphs_replay_the_eager_run(flow_block: Any) -> None:
    """Bit for bit, for other labels, seeds and batch sizes than those of the recording."""
    model = small_model(flow_block=flow_block)
    plan, eager = (
        inference_plan(model, torch.float32, Savings()),
        inference_plan(model, torch.float32, Savings(graphs=False)),
    )
    for labels, seed in (([0, 1, 2], 5), ([4, 4, 0], 6), ([3, 0, 1], 5)):
        scales: list[Tensor] = []
        replayed = run(plan, labels, seed, on_scale=lambda k, tokens, scales=scales: scales.append(tokens))
        assert torch.equal(replayed, run(eager, labels, seed))
        assert [part.shape[1] for part in scales] == list(model.config.scale_lengths)
        assert torch.equal(scales[-1], replayed)
    assert len(plan.pool.waiting()) == 1
    plain = Schedule.published(4, 1.0)
    assert torch.equal(run(plan, [0, 1, 2], schedule=plain), run(eager, [0, 1, 2], schedule=plain))
    assert len(plan.pool.waiting()) == 2


@pytest.mark.usefixtures("graphs")
def test_batches_share_a_program_by_bucket() -> None:
    plan = inference_plan(small_model(), torch.float32, Savings())
    six = run(plan, [0, 1, 2, 3, 4, 0], 9)
    five = run(plan, [0, 1, 2, 3, 4], 9)
    assert torch.equal(five, six[:5])
    assert [key.batch for key, _ in plan.pool.waiting()] == [6]
    assert error(run(plan, [0], 9), six[:1]) < 1e-5
    assert [key.batch for key, _ in plan.pool.waiting()] == [6, 1]


@pytest.mark.usefixtures("graphs")
def test_noise_given_to_graphs() -> None:
    model = small_model()
    plan, labels = inference_plan(model, torch.float32, Savings()), torch.tensor([1, 2, 3])
    noise = scale_noise(4, 3, model.config.scale_lengths, 4, torch.device("cpu"))
    for _ in range(2):
        given = plan.sample(labels, SCHEDULE, noise, Callbacks())
        assert torch.equal(given, run(plan, [1, 2, 3], 4))
        assert torch.equal(noise[0], scale_noise(4, 3, model.config.scale_lengths, 4, torch.device("cpu"))[0])


def test_a_single_scale() -> None:
    model = small_model(latent_size=1)
    noise = [torch.randn(2, 1, 4)]
    given = [model.sample([0, 1], 3, 2.0, noise=noise, naive=naive, dtype="float32") for naive in (True, False)]
    assert error(given[1], given[0]) < 1e-4


@pytest.mark.usefixtures("graphs")
def test_results_outlive_the_next_run() -> None:
    plan = inference_plan(small_model(), torch.float32, Savings())
    first = run(plan, [0, 1], 0)
    kept = first.clone()
    assert not torch.equal(run(plan, [2, 3], 1), first)
    assert torch.equal(first, kept)


@pytest.mark.usefixtures("graphs")
def test_steps_are_counted_under_graphs() -> None:
    steps: list[int] = []
    plan = inference_plan(small_model(), torch.float32, Savings())
    for _ in range(2):
        steps.clear()
        plan.sample(torch.tensor([1]), SCHEDULE, image_seeds(0, 1), Callbacks(lambda: steps.append(1)))
        assert len(steps) == 3 * 6


def test_programs_are_bounded(graphs: CudaApi, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = inference_plan(small_model(), torch.float32, Savings())
    for steps in range(1, 12):
        run(plan, [0], schedule=Schedule.published(steps, 2.0))
    assert [len(key.schedule.times) - 1 for key, _ in plan.pool.waiting()] == list(range(4, 12))
    report = plan.report()
    assert [program.evaluations for program in report.programs] == [3 * steps for steps in range(4, 12)]
    caches = [program.cache for _, program in plan.pool.waiting()]
    graphs_of_scales = 3 * 2**20  # as `recorded_graph` has it
    assert [program.bytes - graphs_of_scales for program in report.programs] == [
        cache.keys.nbytes + cache.values.nbytes for cache in caches
    ]
    monkeypatch.setattr(plan_module, "memory_budget", lambda device: report.programs[0].bytes)
    run(plan, [0], schedule=Schedule.published(5, 2.0))
    assert [len(key.schedule.times) - 1 for key, _ in plan.pool.waiting()] == [5]
    plan.close()
    assert not plan.pool.waiting()


def test_report_counts_the_weights_that_are_not_shared() -> None:
    model = small_model(flow_block="attn_cross_mlp")
    weights = sum(parameter.nbytes for parameter in model.parameters())
    shared, cast = (inference_plan(model, dtype).report() for dtype in (torch.float64, torch.bfloat16))
    assert 2 * weights <= shared.weight_bytes < 2.5 * weights  # no such layout, and nothing that could be shared
    assert 0.5 * weights <= cast.weight_bytes < 0.75 * weights
    plain = inference_plan(model.double(), torch.float64).report()
    assert plain.weight_bytes < 0.75 * 2 * weights
    assert not plain.programs


def host_read_at(plan: InferencePlan, batch: int) -> None:
    """Let the plan's flow transformer read a number for so many images at once, which no graph can."""
    run_flow = plan.networks.flow.run

    def reads_the_host(x: Tensor, *others: Any) -> Tensor:
        velocity = run_flow(x, *others)
        if len(x) in (batch, 2 * batch):
            float(velocity.sum())
        return velocity

    plan.networks.flow.run = reads_the_host  # type: ignore[method-assign]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("version", VERSIONS)
def test_failed_capture_warns_once_and_goes_on(version: str, graphs: CudaApi) -> None:
    """Without graphs for what failed, and only for that: the numbers are those of a plan without any."""
    graphs.version = version
    model = small_model()
    plan, eager = (inference_plan(model, torch.float32, Savings(graphs=use)) for use in (True, False))
    host_read_at(plan, 2)
    with pytest.warns(RuntimeWarning, match=r"CUDA graph capture failed \(.*capturing.*\): sampling goes on"):
        assert torch.equal(run(plan, [0, 1], 5), run(eager, [0, 1], 5))
    assert graphs.clean()
    begun = graphs.begun
    for seed in range(3):
        assert torch.equal(run(plan, [0, 1], seed), run(eager, [0, 1], seed))
    assert graphs.begun == begun
    for _ in range(2):
        assert torch.equal(run(plan, [3, 4, 0], 1), run(eager, [3, 4, 0], 1))
    assert graphs.begun == begun + len(model.config.grids)
    assert [key.batch for key, _ in plan.pool.waiting()] == [3]


@pytest.mark.filterwarnings("error")
def test_programs_make_room_for_another(graphs: CudaApi) -> None:
    """Where memory runs out those that wait go, and the capture is tried once more."""
    plan, scales = inference_plan(small_model(), torch.float32, Savings()), len(small_model().config.grids)
    graphs.memory = 2 * scales
    run(plan, [0])
    run(plan, [0, 1])
    assert [key.batch for key, _ in plan.pool.waiting()] == [2]


def test_what_failed_for_want_of_memory_is_tried_again_after_close(graphs: CudaApi) -> None:
    plan = inference_plan(small_model(), torch.float32, Savings())
    graphs.memory = 1
    with pytest.warns(RuntimeWarning, match="out of memory"):
        run(plan, [0])
    begun, graphs.memory = graphs.begun, float("inf")
    run(plan, [0])
    assert graphs.begun == begun
    plan.close()
    run(plan, [0])
    assert [key.batch for key, _ in plan.pool.waiting()] == [1]


@pytest.mark.parametrize("flow_block", BLOCKS)
@pytest.mark.parametrize("captured", [False, True])
def test_autocast_around_a_call_is_not_for_the_plan(
    flow_block: Any, captured: bool, request: pytest.FixtureRequest
) -> None:
    if captured:
        request.getfixturevalue("graphs")
    model = small_model(flow_block=flow_block)
    expected = run(inference_plan(model, torch.float32, Savings()), [0, 1])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(run(inference_plan(model, torch.float32, Savings()), [0, 1]), expected)


@pytest.mark.parametrize("recorded", [False, True])
def test_threads_do_not_share_a_program(recorded: bool, request: pytest.FixtureRequest) -> None:
    if recorded:
        request.getfixturevalue("graphs")
    model = small_model()
    expected = [model.sample([1, 2], 5, 3.0, seed=seed) for seed in range(4)]
    got: dict[int, list[Tensor]] = {seed: [] for seed in range(4)}

    def work(seed: int) -> None:
        got[seed] = [model.sample([1, 2], 5, 3.0, seed=seed) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in got]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(each, expected[seed]) for seed in got for each in got[seed])
    assert all(len(each) == 3 for each in got.values())


def test_sampling_inside_a_callback(graphs: CudaApi) -> None:
    """A callback that samples has a program of its own."""
    model = small_model()
    expected, inner = model.sample([1, 2], 5, 3.0, seed=1), []
    outer = model.sample(
        [1, 2], 5, 3.0, seed=1, on_scale=lambda k, tokens: inner.append(model.sample([1, 2], 5, 3.0, seed=k))
    )
    assert torch.equal(outer, expected)
    assert torch.equal(inner[1], expected)


def test_buckets() -> None:
    sizes = [bucket(batch) for batch in range(1, 257)]
    assert sorted(set(sizes)) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256]
    assert all(batch <= size <= 1.5 * batch for batch, size in enumerate(sizes, 1))


def test_graphs_need_a_gpu() -> None:
    plan = inference_plan(small_model(), torch.float32, Savings())
    run(plan, [0, 1, 2, 3, 4])
    assert not plan.pool.waiting()


def test_model_drops_the_programs_of_old_weights(graphs: CudaApi) -> None:
    model: FlowAR = small_model()
    model.sample([0], 2)
    old = model._plan(model.precision())
    assert old.pool.waiting()
    with torch.no_grad():
        next(model.parameters()).add_(1)
    model.sample([0], 2)
    assert not old.pool.waiting()
    assert model._plan(model.precision()) is not old


@needs_fp8
def test_fp8_plan() -> None:
    """Near the sample in bfloat16, and not that sample: the engine has fp8 layers in its blocks."""
    model = small_model(flow_block="attn_cross_mlp", ar_width=64)
    exact, bfloat16, fp8 = (model.sample([0, 1, 2], 5, 2.0, dtype=dtype) for dtype in ("fp32", "bf16", "fp8"))
    assert error(bfloat16, exact) < error(fp8, exact) < 0.5
    report = model._plan(PRECISIONS["fp8"]).report()
    assert report.precision == "fp8"
    assert report.weight_bytes < model._plan(PRECISIONS["bfloat16"]).report().weight_bytes
    networks = model._plan(PRECISIONS["fp8"]).networks
    for block in (networks.ar.blocks[0], networks.flow.blocks[0]):
        assert isinstance(block.get_submodule("attn.qkv"), Fp8Linear)


def test_a_finished_call_leaves_nothing_to_the_garbage_collector() -> None:
    """Programs without graphs are let go of at once; the buffers of many calls would pile up until a collection."""
    made: list[weakref.ref[Any]] = []

    class Watched(program_module.SamplingProgram):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(weakref.ref(self))

    gc.disable()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("flowar.engine.plan.SamplingProgram", Watched)
            run(inference_plan(small_model(), torch.float32), [0, 1])
        assert [each() for each in made] == [None]
    finally:
        gc.enable()
