"""The flow transformer: noisy latents of one scale and their conditions in, velocity out.

What a block needs besides x comes in a `BlockContext`, because the sampler knows much of it ahead of time: modulations
that depend on the time alone are a table over the schedule, cross-attention keys and values are one computation per
scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowar import ops
from flowar.config import FlowARConfig
from flowar.networks.attention import CrossAttention, SelfAttention, rotation_table
from flowar.networks.layers import GEGLU, Constants, ResidualStream, RMSNorm, TimeEmbedding, run_block
from flowar.system.arguments import check_type


class BlockContext(NamedTuple):
    """What steers one block at one time step."""

    by_position: Tensor  # [B, N, 6W] (attn_mlp) or [B, N, 3W] (attn_cross_mlp), from SiLU(c + τ)
    by_time: Tensor | None = None  # [B, N or 1, 3W], from SiLU(τ); attn_cross_mlp only
    keys_values: tuple[Tensor, ...] | None = None  # k, v [B, N, H, d] of the conditions; attn_cross_mlp only


class AttnMLPBlock(nn.Module):
    """Spatial-adaLN on attention and GEGLU: six modulation vectors per position (paper, section 3.4).

    x += gate1 * Attention(RMSNorm(x) * (1 + scale1) + shift1)
    x += gate2 * GEGLU(RMSNorm(x) * (1 + scale2) + shift2)
    """

    def __init__(self, width: int, heads: int, condition_width: int, qk_norm: bool) -> None:
        super().__init__()
        self.attn = SelfAttention(width, heads, qkv_bias=False, qk_norm=qk_norm)
        self.mlp = GEGLU(width)
        self.position_modulation = nn.Linear(width, 6 * width)

    def early_parts(self) -> list[nn.Module]:
        """Parts with parameters that are called by themselves, before the block is."""
        return [self.position_modulation]

    def by_time(self, activated_tau: Tensor) -> None:
        """No modulation of this block depends on the time alone."""

    def keys_values(self, z: Tensor, rotation: Tensor) -> None:
        """There is no cross-attention in this block."""

    def forward(
        self, stream: ResidualStream, context: BlockContext, rotation: Tensor, lengths: Sequence[int]
    ) -> ResidualStream:
        """The block on a stream of [B, N, W] in its context; the N tokens are those of the scales of `lengths`."""
        gate1, gate2, scale1, scale2, shift1, shift2 = context.by_position.chunk(6, -1)  # [B, N, W] each
        stream, h = stream.modulated(scale1, shift1)  # [B, N, W]
        stream = stream.add(gate1, self.attn(h, rotation, lengths))  # [B, N, W]
        stream, h = stream.modulated(scale2, shift2)  # [B, N, W]
        return stream.add(gate2, self.mlp(h))  # [B, N, W]


class AttnCrossMLPBlock(nn.Module):
    """Attention modulated by the time, cross-attention to the conditions z, GEGLU modulated per position.

    x += gate1 * Attention(RMSNorm(x) * (1 + scale1) + shift1)
    x += CrossAttention(q = weighted RMSNorm(x), kv = weighted RMSNorm(z))
    x += gate2 * GEGLU(RMSNorm(x) * (1 + scale2) + shift2)
    """

    def __init__(self, width: int, heads: int, condition_width: int, qk_norm: bool) -> None:
        super().__init__()
        self.attn = SelfAttention(width, heads, qkv_bias=False, qk_norm=qk_norm)
        self.cross_norm = RMSNorm(width)
        self.condition_norm = RMSNorm(condition_width)
        self.cross = CrossAttention(width, condition_width, heads, qk_norm)
        self.mlp = GEGLU(width)
        self.time_modulation = nn.Linear(width, 3 * width)
        self.position_modulation = nn.Linear(width, 3 * width)
        self.constants = Constants(one=torch.ones(width, device="cpu"))  # the gate that cross-attention does not have

    def early_parts(self) -> list[nn.Module]:
        """Parts with parameters that are called by themselves, before the block is."""
        return [self.time_modulation, self.position_modulation, self.condition_norm, self.cross.kv, self.cross.k_norm]

    def by_time(self, activated_tau: Tensor) -> Tensor:
        """The modulation [..., 3W] of attention from SiLU(τ) [..., W]."""
        return self.time_modulation(activated_tau)

    def keys_values(self, z: Tensor, rotation: Tensor) -> tuple[Tensor, ...]:
        """Keys and values [B, N, H, d] of the conditions z [B, N, D]."""
        return self.cross.keys_values(self.condition_norm(z), rotation)

    def forward(
        self, stream: ResidualStream, context: BlockContext, rotation: Tensor, lengths: Sequence[int]
    ) -> ResidualStream:
        """The block on a stream of [B, N, W] in its context; the N tokens are those of the scales of `lengths`."""
        assert context.by_time is not None
        assert context.keys_values is not None
        gate1, scale1, shift1 = context.by_time.chunk(3, -1)  # [B, N or 1, W] each
        gate2, scale2, shift2 = context.by_position.chunk(3, -1)  # [B, N, W] each
        stream, h = stream.modulated(scale1, shift1)  # [B, N, W]
        stream = stream.add(gate1, self.attn(h, rotation, lengths))  # [B, N, W]
        stream, h = self.cross_norm.after(stream)  # [B, N, W]
        one = self.constants.one.to(h.dtype)  # [W]
        stream = stream.add(one, self.cross(h, context.keys_values, rotation, lengths))  # [B, N, W]
        stream, h = stream.modulated(scale2, shift2)  # [B, N, W]
        return stream.add(gate2, self.mlp(h))  # [B, N, W]


def over_tokens(scales: Tensor, lengths: Sequence[int]) -> Tensor:
    """Repeat one vector a scale, [B, K, C], for the tokens of the scale: [B, N, C]; a single one broadcasts."""
    if len(lengths) == 1:
        return scales
    parts = zip(scales.unbind(1), lengths, strict=True)
    return torch.cat([part[:, None].expand(-1, length, -1) for part, length in parts], 1)


BLOCKS = {"attn_mlp": AttnMLPBlock, "attn_cross_mlp": AttnCrossMLPBlock}


class FlowTransformer(nn.Module):
    """The velocity of the latents of one scale, or of several scales side by side that do not see each other.

    Attributes:
        checkpoint_blocks: compute the activations and modulations of blocks again in backward, in training mode.
    """

    checkpoint_blocks = False

    def __init__(self, config: FlowARConfig) -> None:
        super().__init__()
        check_type("config", config, FlowARConfig, "a FlowARConfig")
        width, heads = config.flow_width, config.flow_heads
        assert heads is not None
        self.lengths = config.scale_lengths
        self.time_embed = TimeEmbedding(width)
        self.jump_embed = TimeEmbedding(width) if config.jumps else None
        self.condition_embed = nn.Linear(config.ar_width, width)
        self.input_proj = nn.Linear(config.latent_channels, width)
        block = BLOCKS[config.flow_block]
        blocks = (block(width, heads, config.ar_width, config.qk_norm) for _ in range(config.flow_depth))
        self.blocks: Sequence[AttnMLPBlock | AttnCrossMLPBlock] = nn.ModuleList(blocks)  # type: ignore[assignment]
        self.output_modulation = nn.Linear(width, 2 * width)
        self.output_proj = nn.Linear(width, config.latent_channels)
        self.constants = Constants(rotation=rotation_table(config.grids, width // heads))

    @property
    def widest(self) -> int:
        """The channels of the widest activation, which enters GEGLU."""
        return self.blocks[0].mlp.fc1.out_features

    def rotation(self, scales: Sequence[int]) -> Tensor:
        """The rotary table of consecutive scales, [sum of their lengths, d/2, 2]."""
        return self.constants.rotation[sum(self.lengths[: scales[0]]) : sum(self.lengths[: scales[-1] + 1])]

    def tau(self, t: Tensor, r: Tensor | None = None) -> Tensor:
        """The embedding τ [..., W] of times t [...] and, in a model of jumps, of the times r [...] they arrive at."""
        tau = self.time_embed(t)
        return tau if self.jump_embed is None else tau + self.jump_embed(t - (t if r is None else r))

    def forward(self, x_t: Tensor, t: Tensor, z: Tensor, scales: Sequence[int], r: Tensor | None = None) -> Tensor:
        """The velocity [B, N, c] at x_t [B, N, c], times t [B, K], conditions z [B, N, D] of K consecutive scales.

        In a model of jumps it is the mean velocity from t to the times r [B, K], which are t if left out.
        """
        lengths, rotation = [self.lengths[k] for k in scales], self.rotation(scales)
        tau = self.tau(t, r)  # [B, K, W]
        steer, activated_tau = ops.silu_add(self.condition_embed(z), over_tokens(tau, lengths)), F.silu(tau)

        def run_in_context(block: AttnMLPBlock | AttnCrossMLPBlock, stream: ResidualStream) -> ResidualStream:
            by_position = block.position_modulation(steer)
            by_time = block.by_time(activated_tau)  # of scales, not of tokens
            if by_time is not None:
                by_time = over_tokens(by_time, lengths)
            return block(stream, BlockContext(by_position, by_time, block.keys_values(z, rotation)), rotation, lengths)

        stream, checkpoint = self._embed(x_t), self.checkpoint_blocks and self.training
        for block in self.blocks:
            stream = run_block(run_in_context, block, stream, checkpoint=checkpoint)
        return self._velocity(stream, self.output_modulation(steer))

    def run(
        self,
        x_t: Tensor,
        contexts: Iterable[BlockContext],
        output_modulation: Tensor,
        rotation: Tensor,
        lengths: Sequence[int],
    ) -> Tensor:
        """The velocity [B, N, c] from the blocks in given contexts and the modulated output layer."""
        stream = self._embed(x_t)
        for block, context in zip(self.blocks, contexts, strict=True):
            stream = block(stream, context, rotation, lengths)
        return self._velocity(stream, output_modulation)

    def _embed(self, x_t: Tensor) -> ResidualStream:
        return ResidualStream(self.input_proj(x_t))  # [B, N, W]

    def _velocity(self, stream: ResidualStream, modulation: Tensor) -> Tensor:
        shift, scale = modulation.chunk(2, -1)
        _, h = stream.modulated(scale, shift)
        return self.output_proj(h)
