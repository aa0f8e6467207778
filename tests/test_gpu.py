"""What only a GPU can show of the engine. The ops are tested on it by tests/ops."""

from __future__ import annotations

import copy
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, error, inference_plan, recorded_model, recording, small_model
from torch import Tensor

from flowar import FlowAR, FlowARPipeline, Schedule, ops
from flowar.engine.packed import Savings
from flowar.networks.attention_backends import (
    BACKENDS,
    attention,
    flash_imports,
    installed_flash,
    reference_attention,
    use_attention_backend,
)
from flowar.sampling.callbacks import Callbacks
from flowar.sampling.noise import image_seeds
from flowar.system import autotune
from flowar.system.precision import native_bfloat16

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")

BLOCKS = ["attn_mlp", "attn_cross_mlp"]
SCHEDULE = Schedule.published(6, 3.0, (0.0, 0.8))
GPU = torch.device("cuda")
WIDE = {"ar_width": 128, "flow_width": 128, "latent_size": 16, "latent_channels": 16, "num_classes": 10}


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    """float32 means float32, and a capture that fails is an error."""
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "CUDA graph capture failed")
        yield


def gpu_model(**fields: Any) -> FlowAR:
    return small_model(**(WIDE | fields)).to(GPU)


def rms(difference: Tensor) -> float:
    return float(difference.double().square().mean().sqrt())


@contextmanager
def host_synchronisation_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_every_op_has_a_kernel() -> None:
    assert ops.cuda_kernels()
    assert ops.missing_kernels("cuda") == []


@pytest.mark.parametrize("naive", [True, False])
@pytest.mark.parametrize("name", TINY)
def test_recorded_run(name: str, naive: bool) -> None:
    recorded, model = recording(name), copy.deepcopy(recorded_model(name)).to(GPU)
    scales: dict[int, Tensor] = {}
    latents = model.sample(
        recorded["sample.labels"],
        schedule=recorded.schedule(),
        noise=recorded.per_scale("sample.noise"),
        naive=naive,
        dtype="float32",
        on_scale=lambda k, tokens: scales.update({k: tokens.cpu()}),
    )
    for k, expected in enumerate(recorded.per_scale("sample.tokens")):
        assert error(scales[k], expected) < 1e-4
    assert error(latents.cpu(), recorded["sample.latents"]) < 1e-4


@pytest.mark.parametrize("flow_block", BLOCKS)
def test_float32_equals_the_naive_path(flow_block: Any) -> None:
    model = gpu_model(flow_block=flow_block)
    naive, engine = (
        model.sample([0, 5, 9], schedule=SCHEDULE, naive=naive, dtype="float32") for naive in (True, False)
    )
    assert error(engine, naive) < 1e-4
    assert error(engine.cpu(), model.cpu().sample([0, 5, 9], schedule=SCHEDULE)) < 1e-4


@pytest.mark.parametrize("flow_block", BLOCKS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "tf32"])
def test_low_precision_errs_no_more_than_the_naive_path(flow_block: Any, dtype: str) -> None:
    model, labels = gpu_model(flow_block=flow_block), torch.arange(10).repeat(2)
    exact = model.sample(labels, schedule=SCHEDULE, naive=True, dtype="float32")
    naive, engine = (model.sample(labels, schedule=SCHEDULE, naive=naive, dtype=dtype) for naive in (True, False))
    assert 0 < rms(engine - exact) < 1.1 * rms(naive - exact)


def test_bfloat16_is_the_default() -> None:
    if not native_bfloat16(GPU):
        pytest.skip("this GPU has no bfloat16")
    model = gpu_model()
    assert torch.equal(model.sample([1, 2]), model.sample([1, 2], dtype="bf16"))


def test_fp8() -> None:
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no fp8")
    model, labels = gpu_model(flow_block="attn_cross_mlp"), torch.arange(10)
    bfloat16, fp8 = (model.sample(labels, schedule=SCHEDULE, dtype=dtype) for dtype in ("bf16", "fp8"))
    assert 0 < rms(fp8 - bfloat16) < 0.2 * float(bfloat16.std())


@pytest.mark.parametrize("flow_block", BLOCKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_replay_equals_eager_bit_for_bit(flow_block: Any, dtype: torch.dtype) -> None:
    model = gpu_model(flow_block=flow_block)
    graphs, eager = inference_plan(model, dtype), inference_plan(model, dtype, Savings(graphs=False))
    for labels, seed in (([0, 1, 2, 3], 5), ([9, 9, 0, 4], 6), ([3, 0, 1, 7], 5)):
        arguments = torch.tensor(labels, device=GPU), SCHEDULE, image_seeds(seed, 4).to(GPU), Callbacks()
        assert torch.equal(graphs.sample(*arguments), eager.sample(*arguments))
    assert [program.batch for program in graphs.report().programs] == [4]
    assert graphs.report().programs[0].bytes > 0


def test_image_is_the_same_in_any_batch() -> None:
    model = gpu_model()
    six = model.sample([0, 1, 2, 3, 4, 5], schedule=SCHEDULE, seed=3)
    other = model.sample([9, 1, 8, 3, 4], schedule=SCHEDULE, seed=[7, 0, 8, 1, 2])
    again = model.sample([0, 1, 2, 3, 4], schedule=SCHEDULE, seed=3)
    assert torch.equal(again, six[:5])
    seeds = [11, 12, 13, 14, 15, 16]
    forward = model.sample([0, 1, 2, 3, 4, 5], schedule=SCHEDULE, seed=seeds)
    alone = model.sample([0, 1, 2, 3, 4, 9], schedule=SCHEDULE, seed=[*seeds[:5], 99])
    assert torch.equal(forward[:5], alone[:5])
    assert other.shape == again.shape
    single = model.sample([4], schedule=SCHEDULE, seed=[15], dtype="float32")
    assert error(single, model.sample([0, 4, 2], schedule=SCHEDULE, seed=[1, 15, 2], dtype="float32")[1:2]) < 1e-4


@pytest.mark.parametrize("given_noise", [False, True])
def test_no_host_synchronisation(given_noise: bool) -> None:
    model = gpu_model(flow_block="attn_cross_mlp")
    noise = [torch.randn(3, n, 16, device=GPU) for n in model.config.scale_lengths] if given_noise else None
    model.sample([0, 1, 2], schedule=SCHEDULE, noise=noise)
    with host_synchronisation_is_an_error():
        latents = model.sample([3, 4, 5], schedule=SCHEDULE, noise=noise)
    assert latents.isfinite().all()


def test_memory_is_flat() -> None:
    pipe = FlowARPipeline.from_pretrained("flowar-fashion").to(GPU)
    for _ in range(3):
        pipe([0, 1, 2])
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    for seed in range(100):
        pipe([0, 1, 2], seed=seed)
    torch.cuda.synchronize()
    assert (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) == before


def test_pictures_equal_those_of_the_cpu() -> None:
    pipe = FlowARPipeline.from_pretrained("flowar-fashion")
    expected = pipe(list(range(10)), seed=0, dtype="float32").images
    pipe.to(GPU)
    for _ in range(3):  # the third decodes by a graph
        got = pipe(list(range(10)), seed=0, dtype="float32").images
        difference = np.abs(np.stack(got).astype(int) - np.stack(expected).astype(int))
        assert difference.max() <= 4
        assert difference.mean() < 0.1


def test_threads_and_streams() -> None:
    model = gpu_model()
    expected = [model.sample([1, 2, 3], schedule=SCHEDULE, seed=seed) for seed in range(3)]
    wrong: list[int] = []

    def work(seed: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(5):
                latents = model.sample([1, 2, 3], schedule=SCHEDULE, seed=seed)
                torch.cuda.current_stream().synchronize()
                if not torch.equal(latents, expected[seed]):
                    wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_failed_capture() -> None:
    """In a process of its own, whose state would be that of the tests after it."""
    subprocess.run([sys.executable, Path(__file__).with_name("failed_capture_run.py")], check=True)


def test_memory_of_a_program_is_that_of_its_graphs() -> None:
    """Counted as the memory that comes back when it is let go of."""
    plan = inference_plan(gpu_model(latent_size=32), torch.float32)
    plan.sample(torch.zeros(16, dtype=torch.int64, device=GPU), SCHEDULE, image_seeds(0, 16).to(GPU), Callbacks())
    (program,) = plan.report().programs
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    plan.close()
    torch.cuda.empty_cache()
    freed = before - torch.cuda.memory_reserved()
    assert 0.5 * freed < program.bytes < 2 * freed


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_autocast_around_a_call_is_not_for_it(dtype: str) -> None:
    model = gpu_model(flow_block="attn_cross_mlp")
    expected = model.sample([1, 2], schedule=SCHEDULE, dtype=dtype)
    with torch.autocast("cuda", torch.float16):
        assert torch.equal(model.sample([1, 2], schedule=SCHEDULE, dtype=dtype), expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch sees one GPU")
class TestSecondGPU:
    """A model that is not on the current device."""

    def test_runs_are_ordered(self) -> None:
        model = gpu_model().to("cuda:1")
        expected = [model.sample([1, 2, 3], schedule=SCHEDULE, seed=seed) for seed in range(4)]
        got = []
        for seed in range(4):
            with torch.cuda.stream(torch.cuda.Stream("cuda:1")), torch.cuda.device(0):
                got.append(model.sample([1, 2, 3], schedule=SCHEDULE, seed=seed))
        torch.cuda.synchronize("cuda:1")
        assert all(torch.equal(*pair) for pair in zip(got, expected, strict=True))

    def test_ops_want_one_device(self) -> None:
        a, b = (torch.zeros(2, 8, device=device) for device in ("cuda:0", "cuda:1"))
        with pytest.raises(RuntimeError, match=r"silu_add: b: expected a tensor on device 0, .*, got one on 1"):
            ops.silu_add(a, b)


@pytest.mark.parametrize("name", [name for name in BACKENDS if name.startswith("sdpa-")])
@pytest.mark.parametrize(("queries", "keys"), [(4, 5), (16, 21), (256, 341)])
def test_kernels_of_pytorch_agree(name: str, queries: int, keys: int) -> None:
    q, cache = torch.randn(4, queries, 3, 64, device=GPU), torch.randn(2, 4, 400, 3, 64, device=GPU)
    k, v = cache[:, :, :keys]
    expected = reference_attention(q, k, v)
    with use_attention_backend(name):
        got = attention(*(x.bfloat16() for x in (q, k, v)))
    assert rms(got - expected) < 0.02 * rms(expected)


@pytest.mark.parametrize("name", [name for name in BACKENDS if not name.startswith("sdpa-")])
def test_attention_backends_agree(name: str) -> None:
    if name.startswith("flash") and not installed_flash(name):
        pytest.skip(f"{name}: {flash_imports().problem}")
    model = gpu_model(flow_block="attn_cross_mlp")
    exact = model.sample([0, 1], schedule=SCHEDULE, naive=True, dtype="float32")
    with use_attention_backend(name):
        got = model.sample([0, 1], schedule=SCHEDULE, dtype="bf16")
    assert rms(got - exact) < 1.5 * rms(model.sample([0, 1], schedule=SCHEDULE, naive=True, dtype="bf16") - exact)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_kernels_are_measured_once(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the capture, which succeeds; every choice is one of several that worked, and holds for the next plan."""
    monkeypatch.setattr(autotune, "_chosen", {})
    model = gpu_model()
    plan = inference_plan(model, dtype)
    arguments = torch.arange(8, device=GPU), SCHEDULE, image_seeds(5, 8).to(GPU), Callbacks()
    first = plan.sample(*arguments)
    choices = plan.report().choices
    assert {call.split()[0] for call in choices} == {"attention", "product"}
    for choice in choices.values():
        assert choice.name in choice.seconds
        assert all(seconds > 0 for seconds in choice.seconds.values())
    monkeypatch.setattr(autotune, "gpu_seconds", None)
    assert torch.equal(inference_plan(model, dtype).sample(*arguments), first)
    unmeasured = inference_plan(model, dtype, Savings(measured_kernels=False)).sample(*arguments)
    assert error(first, unmeasured) < (1e-4 if dtype == "float32" else 0.2)


@pytest.mark.parametrize("flow_block", BLOCKS)
def test_gradients_equal_those_of_the_cpu(flow_block: Any) -> None:
    model, config = small_model(flow_block=flow_block), small_model().config
    latents, labels = torch.randn(3, config.latent_channels, *config.grid), torch.tensor([0, 1, 2])
    noise, times = torch.randn(3, config.tokens, config.latent_channels), torch.rand(len(config.grids), 3)
    gradients = []
    for device in ("cpu", "cuda"):
        twin = copy.deepcopy(model).to(device)
        out = twin.loss(*(x.to(device) for x in (latents, labels, noise, times)))
        out.loss.backward()
        gradients.append({name: p.grad.cpu() for name, p in twin.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    largest = max(float(gradient.abs().max()) for gradient in gradients[0].values())
    for name, expected in gradients[0].items():
        assert float((gradients[1][name] - expected).abs().max()) < 1e-4 * largest, name


@pytest.mark.parametrize("flow_block", BLOCKS)
def test_velocity_compiles(flow_block: Any) -> None:
    model = gpu_model(flow_block=flow_block)
    arguments = torch.randn(2, 16, 16, device=GPU), torch.rand(2, device=GPU), torch.randn(2, 16, 128, device=GPU)
    with torch.no_grad():
        compiled = torch.compile(model.velocity, fullgraph=True)(*arguments)
        assert error(compiled, model.velocity(*arguments)) < 1e-4


def test_noise_is_that_of_the_cpu() -> None:
    seeds = image_seeds(5, 3)
    here, there = ops.counter_normal(seeds, 4, 5001), ops.counter_normal(seeds.to(GPU), 4, 5001).cpu()
    assert (here != there).float().mean() < 0.01
    assert ((here - there).abs() <= 1.2e-7 * here.abs().clamp(min=1e-3)).all()
