"""What must hold on accelerators other than CUDA's; `test_other_devices.py` runs this file in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import error, small_model
from other_device import DEVICE, Elsewhere, other_device
from training_runs import run_config

from flowar import FlowARPipeline, Schedule, ops
from flowar.evaluation import tuning
from flowar.evaluation.extractors import open_extractor
from flowar.sampling.pins import Pins
from flowar.system import precision
from flowar.system.hardware import peak_flops, peak_memory_mib
from flowar.system.ranks import Ranks
from flowar.training.draws import Draws, Stream
from flowar.training.state import TrainState
from flowar.training.step import Batch, TrainingStep

SCHEDULE = Schedule.published(6, 3.0, (0.0, 0.8))


@pytest.fixture(autouse=True)
def accelerator() -> Iterator[None]:
    with other_device():
        yield


def test_the_device_is_strict() -> None:
    """What these tests rely on: its tensors mix with no others, and none is float64."""
    here, there = torch.ones(2), torch.ones(2, device=DEVICE)
    assert isinstance(there + 1, Elsewhere)
    assert torch.equal((there + 1).cpu(), here + 1)
    with pytest.raises(RuntimeError, match="expected all tensors on elsewhere:0, got one on cpu"):
        there + here
    for make in (lambda: there.double(), lambda: torch.ones(2, dtype=torch.float64, device=DEVICE)):
        with pytest.raises(TypeError, match="no float64"):
            make()


@pytest.mark.parametrize("naive", [True, False])
@pytest.mark.parametrize("flow_block", ["attn_mlp", "attn_cross_mlp"])
def test_sampling_equals_that_of_the_cpu(flow_block: Any, naive: bool) -> None:
    model = small_model(flow_block=flow_block)
    options: Any = {"schedule": SCHEDULE, "naive": naive, "dtype": "float32", "seed": 3}
    expected = model.sample([0, 1, 2], **options)
    latents = model.to(DEVICE).sample([0, 1, 2], **options)
    assert latents.device == DEVICE
    assert error(latents.cpu(), expected) < 1e-4


def test_bfloat16() -> None:
    exact = small_model().sample([0, 1], schedule=SCHEDULE, dtype="float32")
    latents = small_model().to(DEVICE).sample([0, 1], schedule=SCHEDULE, dtype="bfloat16")
    assert 0 < error(latents.cpu(), exact) < 0.5


def test_given_noise_pins_and_callbacks() -> None:
    model = small_model()
    lengths, channels = model.config.scale_lengths, model.config.latent_channels
    noise = [torch.randn(2, n, channels) for n in lengths]
    tokens, masks = [torch.randn(2, n, channels) for n in lengths], [torch.rand(1, n, 1) for n in lengths]

    def sample(device: torch.device) -> tuple[torch.Tensor, list[torch.Tensor]]:
        scales: list[torch.Tensor] = []
        latents = model.to(device).sample(
            [0, 1],
            schedule=SCHEDULE,
            noise=[each.to(device) for each in noise],
            pins=Pins([each.to(device) for each in tokens], [each.to(device) for each in masks]),
            dtype="float32",
            on_scale=lambda _, each: scales.append(each.cpu()),
        )
        return latents.cpu(), scales

    (expected, expected_scales), (latents, scales) = sample(torch.device("cpu")), sample(DEVICE)
    assert error(latents, expected) < 1e-4
    assert all(error(got, want) < 1e-4 for got, want in zip(scales, expected_scales, strict=True))


def test_pictures_equal_those_of_the_cpu() -> None:
    pipe = FlowARPipeline.from_pretrained("flowar-fashion")
    expected = pipe([0, 3], seed=0, schedule="draft", dtype="float32").images
    shown: list[int] = []
    got = pipe.to(DEVICE)(
        [0, 3], seed=0, schedule="draft", dtype="float32", preview=lambda k, _: shown.append(k)
    ).images
    assert shown
    assert np.abs(np.stack(got).astype(int) - np.stack(expected).astype(int)).max() <= 2


def test_parts_come_only_while_they_work() -> None:
    """The model leaves before the tokenizer comes, also for previews and latents alone, and where a call fails."""
    pipe = FlowARPipeline.from_pretrained("flowar-fashion")
    options: Any = {"seed": 0, "schedule": "draft", "dtype": "float32"}
    expected = pipe([0, 3], **options)
    pipe.enable_model_cpu_offload(device=DEVICE)
    seen: list[tuple[str, str]] = []

    def places() -> tuple[str, str]:
        return pipe.device.type, pipe.tokenizer.mean.device.type

    decode = pipe.tokenizer.decode
    pipe.tokenizer.decode = lambda *arguments: (seen.append(places()), decode(*arguments))[1]
    for latents in (None, torch.ones(2, *expected.latents.shape[1:])):
        got = pipe([0, 3], latents=latents, on_scale=lambda *_: seen.append(places()), **options)
        assert {*seen} == {(DEVICE.type, "cpu"), ("cpu", DEVICE.type)}
        assert places() == ("cpu", "cpu")
        assert not pipe.model._plans._plans
        seen.clear()
        if latents is None:
            assert np.abs(np.stack(got.images).astype(int) - np.stack(expected.images).astype(int)).max() <= 2
    assert pipe.sample([0], **options).device == DEVICE
    assert places() == ("cpu", "cpu")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipe([0], on_scale=stop, **options)
    assert places() == ("cpu", "cpu")
    assert pipe.to(DEVICE)([0], **options).latents.device == DEVICE
    assert pipe.device == DEVICE


def test_noise_is_that_of_the_cpu() -> None:
    draws = Draws(torch.tensor([1, 2]))
    there = draws.to(DEVICE)
    assert torch.equal(there.normal(Stream.NOISE, (5,)).cpu(), draws.normal(Stream.NOISE, (5,)))
    assert (there.uniform(Stream.TIMES, (99,)).cpu() - draws.uniform(Stream.TIMES, (99,))).abs().max() < 1e-6


@pytest.mark.parametrize("flow_block", ["attn_mlp", "attn_cross_mlp"])
def test_a_training_step_equals_that_of_the_cpu(flow_block: Any, tmp_path: Path) -> None:
    norms = []
    for device in (torch.device("cpu"), DEVICE):
        model = small_model(flow_block=flow_block, dropout=0.0).to(device)
        config = run_config(tmp_path, tmp_path)
        step = TrainingStep(TrainState.new(model, config.optim), config, Ranks(device), model)
        batch = Batch(torch.linspace(-1, 1, 256).view(4, 4, 4, 4), torch.arange(4), Draws(torch.arange(4)))
        outcome = step(batch.to(device), 1e-3)
        norms.append((outcome.grad_norm.cpu(), outcome.losses[0][0].loss.cpu()))
    for expected, got in zip(*norms, strict=True):
        assert abs(got - expected) < 1e-4 * expected


def test_features() -> None:
    images = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    expected, got = (open_extractor("fashion", torch.device(device))(images) for device in ("cpu", DEVICE))
    assert error(got.pooled, expected.pooled) < 1e-4
    assert got.probabilities.device.type == "cpu"


def test_what_is_known_of_it() -> None:
    assert precision.served_precisions(DEVICE)[:3] == ["float32", "bfloat16", "float16"]
    assert not {"tf32", "float64"} & {*precision.served_precisions(DEVICE)}
    assert precision.resolve_precision("auto", DEVICE, torch.float32).name == "float32"
    assert peak_flops(DEVICE, torch.float32) is None
    assert peak_memory_mib(DEVICE) > 0
    assert ops.implementation().startswith("compiled") or ops.reference_active()


def test_clocks_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[Any] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waits.append)
    for name, value in {"COUNTS": (1, 2, 3, 4), "OTHERS": 1, "EXACT": 4, "TURNS": 1}.items():
        monkeypatch.setattr(tuning, name, value)
    tuning.measure(small_model().to(DEVICE), 1, dtype="float32", clock=lambda: 0.0)
    assert waits
    assert {*waits} == {DEVICE}
