"""Training as published: dense masks, plain PyTorch, nothing fused; with the weights of a `FlowAR`, without its ops.

Each transformer takes the tokens of all scales at once, under a mask [S, S] of who sees whom.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from flowar import FlowAR, ops
from flowar.networks.ar_transformer import ARBlock
from flowar.networks.attention import CrossAttention, SelfAttention
from flowar.networks.flow_transformer import AttnCrossMLPBlock, AttnMLPBlock
from flowar.networks.layers import GEGLU, RMS_EPS, RMSNorm
from flowar.ops import reference


@dataclass(frozen=True)
class Batch:
    """What a step trains on."""

    latents: Tensor  # [B, c, h, w]
    labels: Tensor  # [B]
    noise: Tensor  # [B, S, c]
    times: Tensor  # [K, B]
    dropped: Tensor  # bool [B]: labels that become the null class


class NaiveTraining:
    """The loss of `model` for a batch."""

    def __init__(self, model: FlowAR, compiled: bool = False) -> None:
        """compiled: with each block under torch.compile; all of a kind share one compilation."""
        self.model = model
        device = model.ar_transformer.input_positions.device
        self.lengths = torch.tensor(model.config.scale_lengths, device=device)
        scale = torch.arange(len(self.lengths), device=device).repeat_interleave(self.lengths)
        self.scale_causal = scale[:, None] >= scale  # [S, S]: a token sees its own scale and all coarser ones,
        self.same_scale = scale[:, None] == scale  # and in the flow transformer its own alone
        self.run_ar_block, self.run_flow_block = ar_block, flow_block
        if compiled:
            self.run_ar_block, self.run_flow_block = torch.compile(ar_block), torch.compile(flow_block)

    def loss(self, batch: Batch) -> Tensor:
        """What `FlowAR.loss` returns as its scalar."""
        with ops.use_reference():
            targets, inputs = self.model.pyramid(batch.latents)
        z = self.conditions(inputs, batch.labels.masked_fill(batch.dropped, self.model.config.null_class))
        t = self.by_token(batch.times.T[..., None])  # [B, S, 1]
        velocity = self.velocity((1 - t) * targets + t * batch.noise, batch.times.T, z)
        squared = (velocity.float() - (batch.noise - targets)).square().mean(2)  # [B, S]
        return squared.sum(1).mean() / self.lengths[-1]

    def conditions(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """inputs [B, S-1, c], labels [B] to conditions [B, S, D]."""
        ar = self.model.ar_transformer
        classes = ar.class_embedding(labels)[:, None]
        x = norm(ar.input_norm, torch.cat((classes, ar.input_proj(inputs)), 1) + ar.input_positions)
        for index, block in enumerate(ar.blocks):
            if index == len(ar.blocks) // 2:
                x = ar.middle_proj(norm(ar.middle_norm, x)) + ar.middle_positions
            x = self.run_ar_block(block, x, F.silu(classes), ar.constants.rotation, self.scale_causal)
        return norm(ar.output_norm, x) + ar.output_positions

    def velocity(self, x_t: Tensor, times: Tensor, z: Tensor) -> Tensor:
        """x_t [B, S, c], times [B, K], z [B, S, D] to velocities [B, S, c]."""
        flow = self.model.flow_transformer
        x, tau = flow.input_proj(x_t), self.by_token(flow.time_embed(times))
        steer = F.silu(flow.condition_embed(z) + tau)
        for block in flow.blocks:
            x = self.run_flow_block(block, x, steer, F.silu(tau), z, flow.constants.rotation, self.same_scale)
        shift, scale = flow.output_modulation(steer).chunk(2, -1)
        return flow.output_proj(reference.spatial_adaln(x, scale, shift))

    def by_token(self, values: Tensor) -> Tensor:
        """[B, K, W] to [B, S, W]."""
        return values.repeat_interleave(self.lengths, 1, output_size=self.model.config.tokens)


def ar_block(block: ARBlock, x: Tensor, activated: Tensor, rotation: Tensor, mask: Tensor) -> Tensor:
    """x [B, S, D], steered by the class alone: activated [B, 1, D]."""
    gate1, gate2, scale1, scale2, shift1, shift2 = block.modulation(activated).chunk(6, -1)
    dropout = block.attn.dropout if block.training else 0.0
    x = x + gate1 * self_attention(block.attn, reference.spatial_adaln(x, scale1, shift1), rotation, mask, dropout)
    return x + gate2 * mlp(block.mlp, reference.spatial_adaln(x, scale2, shift2))


def flow_block(
    block: AttnMLPBlock | AttnCrossMLPBlock,
    x: Tensor,
    steer: Tensor,
    activated_tau: Tensor,
    z: Tensor,
    rotation: Tensor,
    mask: Tensor,
) -> Tensor:
    """x [B, S, W], steered at every position: steer and activated_tau [B, S, W], z [B, S, D]."""
    if isinstance(block, AttnMLPBlock):
        gate1, gate2, scale1, scale2, shift1, shift2 = block.position_modulation(steer).chunk(6, -1)
    else:
        gate1, scale1, shift1 = block.time_modulation(activated_tau).chunk(3, -1)
        gate2, scale2, shift2 = block.position_modulation(steer).chunk(3, -1)
    x = x + gate1 * self_attention(block.attn, reference.spatial_adaln(x, scale1, shift1), rotation, mask)
    if isinstance(block, AttnCrossMLPBlock):
        x = x + cross_attention(block.cross, norm(block.cross_norm, x), norm(block.condition_norm, z), rotation, mask)
    return x + gate2 * mlp(block.mlp, reference.spatial_adaln(x, scale2, shift2))


def self_attention(layer: SelfAttention, h: Tensor, rotation: Tensor, mask: Tensor, dropout: float = 0.0) -> Tensor:
    q, k, v = reference.rotary_qkv(layer.qkv(h), rotation, layer.heads).unbind()
    return F.dropout(layer.proj(masked_attention(q, k, v, mask, dropout)), dropout)


def cross_attention(layer: CrossAttention, h: Tensor, z: Tensor, rotation: Tensor, mask: Tensor) -> Tensor:
    (q,) = reference.rotary_qkv(layer.q(h), rotation, layer.heads, parts=1).unbind()
    k, v = reference.rotary_qkv(layer.kv(z), rotation, layer.heads, parts=2).unbind()
    return layer.proj(masked_attention(q, k, v, mask))


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, dropout: float = 0.0) -> Tensor:
    """q, k, v [B, S, H, d] and mask [S, S] to [B, S, H * d]."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, mask, dropout).transpose(1, 2).flatten(2)


def mlp(layer: GEGLU, h: Tensor) -> Tensor:
    return layer.fc2(reference.geglu(layer.fc1(h)))


def norm(layer: RMSNorm, x: Tensor) -> Tensor:
    return reference.normalize(x, "rms", RMS_EPS) * layer.weight
