"""The students of the experiment on distillation: they begin as their teacher, and learn what their targets say."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from conftest import small_model
from torch import Tensor

from experiments.variants.students import STUDENTS, DecoupledFlow, MeanFlowStep
from flowar import FlowARPipeline
from flowar.networks.flow_transformer import over_tokens
from flowar.system.ranks import Ranks
from flowar.tokenizers.pixel import PixelTokenizer
from flowar.training import DataConfig, OptimConfig
from flowar.training.distillation_config import DistillConfig
from flowar.training.distillation_step import DistillationStep, JumpLoss
from flowar.training.draws import Draws
from flowar.training.jump_targets import Jumps, Teacher
from flowar.training.state import TrainState
from flowar.training.step import Batch

LENGTHS = (1, 4, 16)
OPTIM = OptimConfig(batch_size=8, steps=60, lr=2e-3, ema_decays=(0.9,))


def new_step(kind: str, flow_block: str = "attn_mlp") -> DistillationStep:
    teacher = small_model(flow_block=flow_block, dropout=0.0)
    student = STUDENTS[kind].new(teacher)
    guided = Teacher(FlowARPipeline(teacher, PixelTokenizer(1, 2)), teacher.schedule(guidance_scale=2.0))
    config = DistillConfig("teacher", "unused", DataConfig(latents="memory"), jumps=4, optim=OPTIM, precision="float32")
    state = TrainState.new(student, OPTIM)
    return STUDENTS[kind].step(state, config, Ranks(torch.device("cpu")), JumpLoss(student), guided)


def batch(number: int = 0) -> Batch:
    return Batch(torch.randn(8, 4, 4, 4), torch.arange(8) % 5, Draws.for_images(0, number, torch.arange(8)))


@pytest.mark.parametrize("flow_block", ["attn_mlp", "attn_cross_mlp"])
@pytest.mark.parametrize("kind", STUDENTS)
def test_begins_as_its_teacher(kind: str, flow_block: str) -> None:
    """Without jumps: where a jump goes is nothing new then."""
    step = new_step(kind, flow_block)
    x, z, t = torch.randn(2, 21, 4), torch.randn(2, 21, 32), torch.rand(2, 3)
    teacher, student = step.teacher.model.flow_transformer, step.state.model.flow_transformer
    expected = teacher(x, t, z, range(3))
    torch.testing.assert_close(student(x, t, z, range(3), t), expected)
    torch.testing.assert_close(student(x, t, z, range(3)), expected)


def test_decoupled_blocks_see_either_time() -> None:
    flow = new_step("decoupled, splitting").state.model.flow_transformer
    assert isinstance(flow, DecoupledFlow)
    seen: list[Tensor] = []
    for block in flow.blocks:
        block.position_modulation.register_forward_hook(lambda _module, given, _out: seen.append(given[0]))
    x, z, t, r = torch.randn(2, 21, 4), torch.randn(2, 21, 32), torch.rand(2, 3), torch.rand(2, 3)
    flow(x, t, z, range(3), r)
    flow(x, t, z, range(3))
    flow(x, r, z, range(3))
    first, second, of_t, _, _, of_r = seen
    assert torch.equal(first, of_t)
    assert torch.equal(second, of_r)


def test_the_derivative_along_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a mean velocity whose derivative is known: x² + 3 t + r, along v."""
    step = new_step("embedding, MeanFlow")
    assert isinstance(step, MeanFlowStep)

    def flow(x: Tensor, t: Tensor, z: Tensor, scales: object, r: Tensor) -> Tensor:
        return x.square() + over_tokens((3 * t + r)[..., None], LENGTHS)

    model = SimpleNamespace(flow_transformer=flow)
    monkeypatch.setattr(step, "state", SimpleNamespace(model=model))
    t = torch.tensor([[1.0, 0.5, 0.0], [0.4, 0.998, 0.001]])
    x, v = torch.randn(2, 2, 21, 4).unbind()
    got = step._derivative(x, torch.zeros(2, 21, 32), Jumps(t, t / 2, torch.zeros(2, dtype=torch.bool)), v)
    torch.testing.assert_close(got, 2 * x * v + 3, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("kind", STUDENTS)
def test_learns(kind: str) -> None:
    """One batch again and again; the AR transformer stays."""
    step = new_step(kind)
    before = step.state.model.ar_transformer.state_dict()
    given = batch()
    losses = [sum(loss.loss.item() for loss, _ in step(given, OPTIM.lr).losses) for _ in range(OPTIM.steps or 0)]
    assert losses[-1] < 0.7 * losses[0]
    assert all(torch.equal(each, before[name]) for name, each in step.state.model.ar_transformer.state_dict().items())


@pytest.mark.parametrize("kind", STUDENTS)
def test_samples(kind: str) -> None:
    model = new_step(kind).state.model.eval()
    naive = "decoupled" in kind
    latents = model.sample([0, 3], seed=[1, 2], schedule="2-step", naive=naive, progress=False)
    assert latents.shape == (2, 4, 4, 4)
