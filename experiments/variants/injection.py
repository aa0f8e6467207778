"""Ways to tell the flow transformer of the semantics z (paper, table "injection of the semantics").

The model's own, Spatial-adaLN, modulates every position by SiLU(z + τ). In all others but pooled adaLN the blocks are
modulated by SiLU(τ) alone, and the semantics come in as the name says. Each is a `FlowTransformer` with the same
`forward`, so that training and the published sampler need not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowar.config import FlowARConfig, require
from flowar.networks.flow_transformer import FlowTransformer, over_tokens
from flowar.networks.layers import Constants


class NoCondition(nn.Module):
    """In the place of the embedding of z: zeros [B, N, W], in the dtype that a linear layer would give."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.constants = Constants(zeros=torch.zeros(width, 1))

    def forward(self, z: Tensor) -> Tensor:
        return F.linear(torch.zeros_like(z[..., :1]), self.constants.zeros.to(z.dtype))


class PooledAdaLN(FlowTransformer):
    """adaLN of DiT: one modulation a scale, from the mean of its semantics and the time."""

    def forward(self, x_t: Tensor, t: Tensor, z: Tensor, scales: Sequence[int]) -> Tensor:
        lengths = [self.lengths[k] for k in scales]
        pooled = torch.stack([part.mean(1) for part in z.split(lengths, 1)], 1)  # [B, K, D]
        return super().forward(x_t, t, over_tokens(pooled, lengths).expand_as(z), scales)


class ChannelConcatenation(FlowTransformer):
    """The first layer projects the channels of x_t and of z together."""

    def __init__(self, config: FlowARConfig) -> None:
        super().__init__(config)
        self.condition_embed = NoCondition(config.flow_width)  # type: ignore[assignment]
        self.input_proj = nn.Linear(config.latent_channels + config.ar_width, config.flow_width)

    def forward(self, x_t: Tensor, t: Tensor, z: Tensor, scales: Sequence[int]) -> Tensor:
        return super().forward(torch.cat((x_t, z.to(x_t.dtype)), -1), t, z, scales)


class AddedInput(nn.Module):
    """x_t projected, plus z as it is, of the channels [x_t, z]."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.split = (channels, width)
        self.latents = nn.Linear(channels, width)

    def forward(self, x: Tensor) -> Tensor:
        x_t, z = x.split(self.split, -1)
        projected = self.latents(x_t)
        return projected + z.to(projected.dtype)


class Addition(ChannelConcatenation):
    """z is added to the embedded x_t, position by position; so both transformers must have one width."""

    def __init__(self, config: FlowARConfig) -> None:
        require("flow_width", f"ar_width = {config.ar_width}", config.flow_width, config.flow_width == config.ar_width)
        super().__init__(config)
        self.input_proj = AddedInput(config.latent_channels, config.flow_width)  # type: ignore[assignment]


class SequenceConcatenation(ChannelConcatenation):
    """The tokens of z stand before those of x_t, at the same coordinates; all of a scale attend to all."""

    def __init__(self, config: FlowARConfig) -> None:
        super().__init__(config)
        tables = self.constants.rotation.split(list(self.lengths))
        self.constants = Constants(rotation=torch.cat([each for table in tables for each in (table, table)]))
        self.lengths = tuple(2 * length for length in self.lengths)

    def forward(self, x_t: Tensor, t: Tensor, z: Tensor, scales: Sequence[int]) -> Tensor:
        lengths = [self.lengths[k] // 2 for k in scales]
        # A token of z has no latents, and one of x_t no semantics: `input_proj` is a projection for each kind.
        latents = torch.cat([torch.cat((torch.zeros_like(x), x), 1) for x in x_t.split(lengths, 1)], 1)
        conditions = torch.cat([torch.cat((part, torch.zeros_like(part)), 1) for part in z.split(lengths, 1)], 1)
        velocity = super().forward(latents, t, conditions, scales)  # [B, 2N, c]
        parts = velocity.split([2 * length for length in lengths], 1)
        return torch.cat([part[:, part.shape[1] // 2 :] for part in parts], 1)


class CrossAttentionOnly(FlowTransformer):
    """Every block has cross-attention to the z of its scale, between attention and GEGLU."""

    def __init__(self, config: FlowARConfig) -> None:
        super().__init__(replace(config, flow_block="attn_cross_mlp"))
        self.condition_embed = NoCondition(config.flow_width)  # type: ignore[assignment]
