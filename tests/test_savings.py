"""What each saving saves, in calls of modules: numbers alone would not show that one is lost."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import inference_plan, small_model
from recorded_graph import CudaApi
from torch import Tensor, nn

from flowar import Schedule
from flowar.engine import cuda_graph
from flowar.engine import plan as plan_module
from flowar.engine.packed import PackedNetworks, Savings, default_savings
from flowar.engine.plan import InferencePlan
from flowar.engine.rewrites import pad_hidden
from flowar.networks.layers import GEGLU, RMSNorm
from flowar.sampling.callbacks import Callbacks
from flowar.sampling.noise import image_seeds

BATCH, SCALES, STEPS, BLOCKS = 2, 3, 6, 2
SCHEDULE = Schedule.published(STEPS, 3.0, (0.0, 0.5))  # half of the steps are guided
UNGUIDED = STEPS // 2
EVALUATIONS = SCALES * STEPS


class Calls:
    """Counts calls of modules, and the rows [B, ...] that enter them."""

    def __init__(self, *modules: nn.Module) -> None:
        self.count = self.rows = 0
        for module in modules:
            module.register_forward_pre_hook(self._count)

    def _count(self, module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        self.count += 1
        self.rows += len(arguments[0])


def plan_with(savings: Savings, flow_block: Any) -> InferencePlan:
    return inference_plan(small_model(flow_block=flow_block, flow_depth=BLOCKS), torch.float32, savings)


def sample(plan: InferencePlan) -> None:
    plan.sample(torch.tensor([1, 2]), SCHEDULE, image_seeds(0, BATCH), Callbacks())


CHUNKS = 1 + 2 * (SCALES - 1)  # steps with equally many rows: the first scale is not guided, the others are in part

# Of each saving and kind of block: modules, and how often they are called with all savings and without this one.
COUNTS: dict[tuple[str, str], tuple[Callable[[PackedNetworks], list[nn.Module]], int, int]] = {
    ("time_tables", "attn_mlp"): (lambda n: [n.flow.time_embed], 1, CHUNKS),
    ("time_tables", "attn_cross_mlp"): (
        lambda n: [n.flow.time_embed, *(block.time_modulation for block in n.flow.blocks)],
        1 + BLOCKS,
        (1 + BLOCKS) * CHUNKS,
    ),
    ("class_modulations_once", "attn_mlp"): (lambda n: [n.ar.blocks[0].modulation], 1, SCALES),
    ("cross_attention_once", "attn_cross_mlp"): (lambda n: [n.flow.blocks[0].cross.kv], SCALES, EVALUATIONS),
    ("modulations_ahead", "attn_mlp"): (lambda n: [n.modulation], CHUNKS, EVALUATIONS),
    ("modulations_ahead", "attn_cross_mlp"): (lambda n: [n.modulation], CHUNKS, EVALUATIONS),
    ("stacked_modulations", "attn_mlp"): (
        lambda n: [n.flow.output_modulation, *(block.position_modulation for block in n.flow.blocks)],
        0,
        (1 + BLOCKS) * CHUNKS,
    ),
    ("single_token", "attn_mlp"): (lambda n: [n.flow.blocks[0].attn.qkv], EVALUATIONS - STEPS, EVALUATIONS),
    ("single_token", "attn_cross_mlp"): (lambda n: [n.flow.blocks[0].cross.q], EVALUATIONS - STEPS, EVALUATIONS),
}


@pytest.mark.parametrize(("saving", "flow_block"), COUNTS)
def test_calls_that_a_saving_saves(saving: str, flow_block: str) -> None:
    modules, with_it, without_it = COUNTS[saving, flow_block]
    for savings, expected in ((Savings(), with_it), (replace(Savings(), **{saving: False}), without_it)):
        plan = plan_with(savings, flow_block)
        calls = Calls(*modules(plan.networks))
        sample(plan)
        assert calls.count == expected


@pytest.mark.parametrize(("guidance", "halves"), [(1.0, 1), (2.0, 2)])
def test_conditions_without_a_class_are_for_guidance(guidance: float, halves: int) -> None:
    plan = plan_with(Savings(), "attn_mlp")
    calls = Calls(plan.networks.ar.blocks[0].attn.qkv)
    schedule = replace(SCHEDULE, guidance_scale=guidance)
    plan.sample(torch.tensor([1, 2]), schedule, image_seeds(0, BATCH), Callbacks())
    assert calls.rows == SCALES * halves * BATCH


@pytest.mark.parametrize(
    ("savings", "unguided_rows"), [(Savings(), BATCH), (Savings(conditional_half=False), 2 * BATCH)]
)
@pytest.mark.parametrize("flow_block", ["attn_mlp", "attn_cross_mlp"])
def test_rows_of_the_conditional_half(flow_block: str, savings: Savings, unguided_rows: int) -> None:
    """Where guidance does nothing, at the whole first scale and at half of the steps of the others."""
    plan = plan_with(savings, flow_block)
    calls = Calls(plan.networks.flow.input_proj)
    sample(plan)
    unguided = STEPS + (SCALES - 1) * UNGUIDED
    assert calls.count == EVALUATIONS
    assert calls.rows == unguided * unguided_rows + (EVALUATIONS - unguided) * 2 * BATCH


@pytest.mark.parametrize(("savings", "norms"), [(Savings(), 0), (Savings(folded_norms=False), BLOCKS)])
def test_norms_with_weights(savings: Savings, norms: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries have one at every evaluation, conditions once a scale; where they are folded, none is left."""
    plan, called = plan_with(savings, "attn_cross_mlp"), list[nn.Module]()
    after = RMSNorm.after

    def counted(self: RMSNorm, stream: Any) -> Any:
        called.append(self)
        return after(self, stream)

    monkeypatch.setattr(RMSNorm, "after", counted)
    sample(plan)
    assert (
        sum(norm is block.cross_norm for norm in called for block in plan.networks.flow.blocks) == norms * EVALUATIONS
    )
    assert sum(norm is block.condition_norm for norm in called for block in plan.networks.flow.blocks) == norms * SCALES


@pytest.mark.parametrize(("savings", "width"), [(Savings(), 192), (Savings(padded_geglu=False), 170)])
def test_width_of_geglu(savings: Savings, width: int) -> None:
    networks = plan_with(savings, "attn_mlp").networks
    assert {block.mlp.fc2.in_features for block in networks.flow.blocks} == {width}


def test_geglu_of_a_fitting_width_stays() -> None:
    """Its very weights: a copy would take their memory again."""
    fitting, other = GEGLU(24), GEGLU(26)  # hidden widths of 64 and 69
    weights, x = [*fitting.parameters()], torch.randn(3, 26)
    expected = other(x)
    pad_hidden(fitting)
    pad_hidden(other)
    assert all(map(operator.is_, fitting.parameters(), weights))
    assert other.fc2.in_features == 128
    torch.testing.assert_close(other(x), expected)


@pytest.mark.parametrize(("savings", "evaluations"), [(Savings(), 0), (Savings(graphs=False), EVALUATIONS)])
def test_calls_from_python_under_graphs(savings: Savings, evaluations: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """None, once the graphs are recorded."""
    monkeypatch.setattr(cuda_graph, "available", lambda device: True)
    monkeypatch.setattr(plan_module, "memory_budget", lambda device: 2**30)
    CudaApi().install(monkeypatch)
    plan = plan_with(savings, "attn_mlp")
    sample(plan)
    calls = Calls(plan.networks.flow.input_proj)
    sample(plan)
    assert calls.count == evaluations


def test_what_is_saved_where() -> None:
    """A CPU does without what only costs it memory, and without measuring; it has no graphs anyway."""
    off = {"stacked_modulations", "padded_geglu", "folded_norms", "measured_kernels"}
    assert {name for name, used in vars(default_savings(torch.device("cpu"))).items() if not used} == off
    assert all(vars(default_savings(torch.device("cuda"))).values())
