"""Where the AR transformer looks: how much weight each scale gives to the coarser ones, and one position's own map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from flowar import ops
from flowar.engine.onednn_linear import unpacked
from flowar.model import FlowAR
from flowar.networks.ar_transformer import ARTransformer
from flowar.show.states import ar_inputs


class ScaleAttention(NamedTuple):
    """Attention weights of the AR transformer's blocks, float32 on the CPU, means over a batch.

    Attributes:
        between_scales: [blocks, heads, K, K], the share of the weight that positions of a scale (row) give to all of
            another one (column), on average; rows sum to 1.
        of_query: [blocks, heads, S], the weights of one position.
    """

    between_scales: Tensor
    of_query: Tensor


@torch.inference_mode()
def scale_attention(model: FlowAR, labels: Tensor, tokens: Sequence[Tensor], query: int) -> ScaleAttention:
    """The attention of a teacher-forced pass over `tokens` [B, n_k, c] of all scales; `query` is one of S positions."""
    ar = unpacked(model).ar_transformer  # whose layers the hooks are on
    packed: list[Tensor] = []
    hooks = [block.attn.qk_norm.register_forward_hook(lambda *call: packed.append(call[2])) for block in ar.blocks]
    try:
        ar(ar_inputs(model, tokens), labels)
    finally:
        for hook in hooks:
            hook.remove()
    scales = scale_of_position(ar).to(labels.device)
    members = torch.nn.functional.one_hot(scales).float()  # [S, K]
    between, of_query = [], []
    for part in packed:
        weights = attention_weights(part, ar)  # [B, H, S, S]
        by_scale = (weights @ members).transpose(-2, -1) @ members  # [B, H, K (seen), K (seeing)], sums
        between.append((by_scale / members.sum(0)).transpose(-2, -1).mean(0))
        of_query.append(weights[:, :, query].mean(0))
    return ScaleAttention(torch.stack(between).cpu(), torch.stack(of_query).cpu())


def attention_weights(packed: Tensor, ar: ARTransformer) -> Tensor:
    """softmax(q k / sqrt(d)) [B, H, S, S] of a block's packed q, k, v [B, S, 3D], zero for finer scales."""
    q, k, _ = ops.rotary_qkv(packed, ar.constants.rotation, ar.heads).float().unbind()  # [B, S, H, d]
    scores = torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(ar.head_dim)
    scales = scale_of_position(ar).to(packed.device)
    return scores.masked_fill(scales > scales[:, None], -math.inf).softmax(-1)


def scale_of_position(ar: ARTransformer) -> Tensor:
    """The number of the scale that each of the S positions belongs to."""
    return torch.arange(len(ar.lengths)).repeat_interleave(torch.tensor(ar.lengths))


def even_attention(lengths: Sequence[int]) -> Tensor:
    """The `between_scales` [K, K] of a model whose positions give the same weight to all that they may see."""
    seen = torch.tensor(lengths, dtype=torch.float32).repeat(len(lengths), 1).tril()
    return seen / seen.sum(1, keepdim=True)
