"""What the forward pass keeps for backward, counted in tensors of [B, N, W]: one per token and channel of the model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import small_model
from torch import Tensor

from flowar import FlowAR
from flowar.flow_transformer import BlockContext
from flowar.layers import ResidualStream

BATCH, WIDTH = 2, 64


def saved_bytes(forward: Callable[[], object], model: FlowAR) -> int:
    """Bytes of the storages that `forward` keeps for backward, each counted once, without the model's own."""
    own = {each.untyped_storage().data_ptr() for each in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    assert result is not None  # and with it alive what it keeps
    return sum(each.untyped_storage().nbytes() for address, each in kept.items() if address not in own)


def model_of(flow_block: str = "attn_mlp") -> FlowAR:
    return small_model(latent_size=8, ar_width=WIDTH, flow_width=WIDTH, flow_block=flow_block, dropout=0.0)


def tokens(model: FlowAR) -> Tensor:
    return torch.randn(BATCH, model.config.tokens, WIDTH, requires_grad=True)


def in_tensors(count: int, model: FlowAR) -> float:
    return count / (BATCH * model.config.tokens * WIDTH * 4)


# Of attn_mlp: its condition 1; modulation 6; the stream before, its gate and branch 3; norm 1; q, k, v 3; attention by
# scale and joined 2; the stream 1, its branch 1; norm 1; both sides of the GEGLU 16/3 + 8/3. Of attn_cross_mlp besides:
# the time's condition 1, the conditions and their norm 2, stream 1, norm 1, q, k, v 3, attention 2. The branch that
# cross-attention adds is not kept: its gate is constant.
@pytest.mark.parametrize(("flow_block", "expected"), [("attn_mlp", 27), ("attn_cross_mlp", 37)])
def test_a_block_of_the_flow_transformer(flow_block: str, expected: float) -> None:
    model = model_of(flow_block)
    flow, lengths = model.flow_transformer, model.config.scale_lengths
    block, rotation = flow.blocks[0], flow.rotation(range(len(lengths)))
    steer, tau, z = tokens(model), tokens(model), tokens(model)

    def forward() -> ResidualStream:
        context = BlockContext(block.position_modulation(steer), block.by_time(tau), block.keys_values(z, rotation))
        return block(ResidualStream(tokens(model), tokens(model), tokens(model)), context, rotation, lengths)

    assert in_tensors(saved_bytes(forward, model), model) <= expected + 0.2


def test_a_block_of_the_ar_transformer() -> None:
    """As attn_mlp, with one modulation an image."""
    model = model_of()
    transformer = model.ar_transformer
    block, rotation = transformer.blocks[0], transformer.constants.rotation
    modulation = torch.randn(BATCH, 1, 6 * WIDTH, requires_grad=True)

    def forward() -> ResidualStream:
        stream = ResidualStream(tokens(model), modulation[..., :WIDTH], tokens(model))
        return block(stream, modulation, lambda h: block.attn(h, rotation, model.config.scale_lengths, causal=True))

    assert in_tensors(saved_bytes(forward, model), model) <= 19 + 0.2
