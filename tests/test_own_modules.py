"""Modules of a user's own classes: the engine calls them as they are, or refuses them with a sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import error, inference_plan, small_model
from torch import Tensor, nn

from flowar import FlowAR, Schedule
from flowar.engine.packed import Savings, default_savings
from flowar.networks.attention import SelfAttention
from flowar.networks.flow_transformer import AttnCrossMLPBlock, AttnMLPBlock, FlowTransformer
from flowar.networks.layers import GEGLU, RMSNorm
from flowar.sampling.callbacks import Callbacks
from flowar.sampling.noise import image_seeds

BLOCKS = ["attn_mlp", "attn_cross_mlp"]
SCHEDULE = Schedule.published(3, 2.0)


class Halved(nn.Module):
    """Mixed into a class of the package: half of what that computes."""

    def forward(self, *arguments: Any, **options: Any) -> Any:
        return super().forward(*arguments, **options) * 0.5


class HalvedAttention(Halved, SelfAttention): ...


class HalvedGEGLU(Halved, GEGLU): ...


class HalvedLinear(Halved, nn.Linear): ...


class LoudNorm(RMSNorm):
    def after(self, stream: Any) -> Any:
        stream, h = super().after(stream)
        return stream, 2 * h


class HalvedBlock(AttnMLPBlock):
    def forward(self, stream: Any, *context: Any) -> Any:
        stream = super().forward(stream, *context)
        return stream._replace(branch=stream.branch * 0.5)


class HalvedCrossBlock(AttnCrossMLPBlock):
    def forward(self, stream: Any, *context: Any) -> Any:
        stream = super().forward(stream, *context)
        return stream._replace(branch=stream.branch * 0.5)


def block_of_its_own(model: FlowAR) -> None:
    block = model.flow_transformer.blocks[0]
    block.__class__ = HalvedBlock if type(block) is AttnMLPBlock else HalvedCrossBlock  # type: ignore[assignment]


def attention_of_its_own(model: FlowAR) -> None:
    for network in (model.ar_transformer, model.flow_transformer):
        network.blocks[0].attn.__class__ = HalvedAttention  # type: ignore[assignment]


def geglu_of_its_own(model: FlowAR) -> None:
    model.flow_transformer.blocks[0].mlp.__class__ = HalvedGEGLU  # type: ignore[assignment]


def layers_of_their_own(model: FlowAR) -> None:
    block = model.flow_transformer.blocks[0]
    for layer in (block.attn.qkv, block.mlp.fc1, block.position_modulation, model.ar_transformer.middle_proj):
        layer.__class__ = HalvedLinear


def norms_of_their_own(model: FlowAR) -> None:
    for module in (*model.flow_transformer.modules(), *model.ar_transformer.modules()):
        if isinstance(module, RMSNorm):
            module.__class__ = LoudNorm


def hooks(model: FlowAR) -> None:
    block = model.flow_transformer.blocks[0]
    for module in (block.attn, block.attn.proj, block.mlp.fc1, block.position_modulation, block):
        module.register_forward_hook(halving)


def halving(module: nn.Module, arguments: Any, output: Any) -> Any:
    return output * 0.5 if isinstance(output, Tensor) else output._replace(branch=output.branch * 0.5)


OWN = [block_of_its_own, attention_of_its_own, geglu_of_its_own, layers_of_their_own, norms_of_their_own, hooks]


@pytest.mark.parametrize("flow_block", BLOCKS)
@pytest.mark.parametrize("savings", [default_savings(torch.device("cpu")), Savings()], ids=["cpu", "all"])
@pytest.mark.parametrize("change", OWN)
def test_they_are_called_as_they_are(change: Callable[[FlowAR], None], savings: Savings, flow_block: Any) -> None:
    model = small_model(flow_block=flow_block)
    plain = model.sample([1, 2], schedule=SCHEDULE, naive=True, dtype="float32")
    change(model)
    expected = model.sample([1, 2], schedule=SCHEDULE, naive=True, dtype="float32")
    plan = inference_plan(model, torch.float32, savings)
    tokens = plan.sample(torch.tensor([1, 2]), SCHEDULE, image_seeds(0, 2), Callbacks())
    assert error(expected, plain) > 1e-2
    assert error(model.pyramid.to_grid(tokens, 2), expected) < 1e-4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("change", OWN)
def test_they_are_seen_after_a_call(change: Callable[[FlowAR], None], dtype: str) -> None:
    """Though no weight has changed."""
    model = small_model(flow_block="attn_cross_mlp")
    before = model.sample([1, 2], schedule=SCHEDULE, dtype=dtype)
    change(model)
    after = model.sample([1, 2], schedule=SCHEDULE, dtype=dtype)
    assert error(after, before) > 1e-2
    naive = model.sample([1, 2], schedule=SCHEDULE, dtype=dtype, naive=True)
    assert error(after, naive) < (1e-4 if dtype == "float32" else 0.2)


class ReversedFlow(FlowTransformer):
    def forward(self, *arguments: Any) -> Tensor:
        return -super().forward(*arguments)


@pytest.mark.parametrize("sampled_before", [False, True])
def test_another_forward_of_the_flow_transformer_is_refused(sampled_before: bool) -> None:
    """The engine never calls it; the published algorithm does."""
    model = small_model()
    plain = model.sample([1], 2, naive=True)
    if sampled_before:
        model.sample([1], 2)
    model.flow_transformer.__class__ = ReversedFlow
    message = "^engine: expected FlowTransformer.forward, which it takes apart, got ReversedFlow.forward; naive=True"
    with pytest.raises(ValueError, match=message):
        model.sample([1], 2)
    assert error(model.sample([1], 2, naive=True), plain) > 1e-2


def test_a_subclass_without_one_is_served() -> None:
    class Named(FlowTransformer):
        """Computes the same."""

    model = small_model()
    expected = model.sample([1], 2)
    model.flow_transformer.__class__ = Named
    assert torch.equal(model.sample([1], 2), expected)


@pytest.mark.parametrize("sampled_before", [False, True])
def test_a_replaced_forward_is_refused(sampled_before: bool) -> None:
    model = small_model()
    if sampled_before:
        model.sample([1], 2)
    attention = model.flow_transformer.blocks[1].attn
    forward = attention.forward
    attention.forward = lambda *arguments, **options: 2 * forward(*arguments, **options)  # type: ignore[method-assign]
    message = "^engine: expected the forward of a module's class, got one of its own at FlowTransformer blocks.1.attn;"
    with pytest.raises(ValueError, match=message):
        model.sample([1], 2)
    model.sample([1], 2, naive=True)
