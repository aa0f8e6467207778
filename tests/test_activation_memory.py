"""What the forward pass keeps, for backward and as its result, counted in tensors of the stream's size, [B, N, W]."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
from conftest import small_model
from torch import Tensor

from flowar import FlowAR
from flowar.model import Checkpointing
from flowar.networks.flow_transformer import BlockContext
from flowar.networks.layers import ResidualStream

BATCH, WIDTH = 2, 64


def kept_bytes(forward: Callable[[], object], model: FlowAR) -> int:
    """Bytes of the storages alive after `forward`, each counted once, without the model's own and those before.

    They are what autograd saved, what checkpoints hold on to as arguments, and the result.
    """
    others = {address(each) for each in (*model.parameters(), *model.buffers(), *tensors_in_python())}
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    assert result is not None
    storages = {address(each): each.untyped_storage().nbytes() for each in (*kept, *tensors_in_python())}
    return sum(size for each, size in storages.items() if each not in others)


def tensors_in_python() -> list[Tensor]:
    return [each for each in gc.get_objects() if type(each) is Tensor and each.layout is torch.strided]


def address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def model_of(flow_block: str = "attn_mlp", depth: int = 2) -> FlowAR:
    widths, depths = {"ar_width": WIDTH, "flow_width": WIDTH}, {"ar_depth": depth, "flow_depth": depth}
    return small_model(latent_size=8, flow_block=flow_block, dropout=0.0, **widths, **depths)


def tokens(model: FlowAR) -> Tensor:
    return torch.randn(BATCH, model.config.tokens, WIDTH, requires_grad=True)


def in_tensors(count: int, model: FlowAR) -> float:
    return count / (BATCH * model.config.tokens * WIDTH * 4)


# Of attn_mlp: its condition 1; modulation 6; gate and branch before it 2, the stream with them 1; norm 1; q, k, v 3;
# attention by scale and joined 2; branch 1, stream 1; norm 1; both sides of the GEGLU 16/3 + 8/3, its output 1. Of
# attn_cross_mlp besides: the time's condition 1; the conditions and their norm 2; stream 1, norm 1, q, k, v 3,
# attention 2. The branch that cross-attention adds is not kept: its gate is constant.
@pytest.mark.parametrize(("flow_block", "expected"), [("attn_mlp", 28), ("attn_cross_mlp", 38)])
def test_a_block_of_the_flow_transformer(flow_block: str, expected: float) -> None:
    model = model_of(flow_block)
    flow, lengths = model.flow_transformer, model.config.scale_lengths
    block, rotation = flow.blocks[0], flow.rotation(range(len(lengths)))
    steer, tau, z = tokens(model), tokens(model), tokens(model)

    def forward() -> ResidualStream:
        context = BlockContext(block.position_modulation(steer), block.by_time(tau), block.keys_values(z, rotation))
        return block(ResidualStream(tokens(model), tokens(model), tokens(model)), context, rotation, lengths)

    assert in_tensors(kept_bytes(forward, model), model) <= expected + 0.2


def test_a_block_of_the_ar_transformer() -> None:
    """As attn_mlp, with one modulation an image."""
    model = model_of()
    transformer = model.ar_transformer
    block, rotation = transformer.blocks[0], transformer.constants.rotation
    modulation = torch.randn(BATCH, 1, 6 * WIDTH, requires_grad=True)

    def forward() -> ResidualStream:
        stream = ResidualStream(tokens(model), modulation[..., :WIDTH], tokens(model))
        return block(stream, modulation, lambda h: block.attn(h, rotation, model.config.scale_lengths, causal=True))

    assert in_tensors(kept_bytes(forward, model), model) <= 21 + 0.2


def training_step(model: FlowAR, checkpointing: Checkpointing) -> list[Tensor]:
    """The loss and all gradients of one step, and that dropout has drawn the same: what it draws next."""
    torch.manual_seed(0)
    model.checkpointing = checkpointing
    model.zero_grad()
    loss = model.loss(torch.randn(BATCH, 4, 8, 8), torch.arange(BATCH)).loss
    loss.backward()
    return [loss.detach(), torch.rand(()), *(each.grad for each in model.parameters() if each.grad is not None)]


@pytest.mark.parametrize("checkpointing", ["flow", "all"])
@pytest.mark.parametrize("flow_block", ["attn_mlp", "attn_cross_mlp"])
def test_checkpointing_changes_no_bit(flow_block: str, checkpointing: Checkpointing) -> None:
    model = small_model(latent_size=8, flow_block=flow_block, dropout=0.3).train()
    for ours, plain in zip(training_step(model, checkpointing), training_step(model, "none"), strict=True):
        assert torch.equal(ours, plain)


def test_checkpointed_blocks_keep_their_stream_alone() -> None:
    """That is, of every block of the flow transformer x, gate and branch, of the AR transformer x and branch."""

    def kept(checkpointing: Checkpointing, depth: int) -> float:
        model = model_of(depth=depth).train()
        model.checkpointing = checkpointing
        latents, labels = torch.randn(BATCH, 4, 8, 8), torch.arange(BATCH)
        return in_tensors(kept_bytes(lambda: model.loss(latents, labels), model), model)

    def one_more_block(checkpointing: Checkpointing) -> float:
        return (kept(checkpointing, 4) - kept(checkpointing, 2)) / 2

    assert one_more_block("none") > 40  # what the block of each kind keeps, as above
    assert one_more_block("flow") <= 20 + 3
    assert one_more_block("all") <= 2 + 3 + 0.5


def test_checkpointing_is_for_training_alone() -> None:
    model = model_of().eval()
    latents, labels = torch.randn(BATCH, 4, 8, 8), torch.arange(BATCH)
    plain = kept_bytes(lambda: model.loss(latents, labels), model)
    model.checkpointing = "all"
    assert kept_bytes(lambda: model.loss(latents, labels), model) == plain


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(ValueError, match="checkpointing: expected none or flow or all, got some"):
        model_of().checkpointing = "some"  # type: ignore[assignment]
