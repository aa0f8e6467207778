"""The autoregressive transformer: class label and coarser latents in, one condition per position out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowar.config import FlowARConfig
from flowar.networks.attention import KVCache, SelfAttention, rotation_table
from flowar.networks.layers import GEGLU, Constants, ResidualStream, RMSNorm, run_block
from flowar.system.arguments import check_type


class ARBlock(nn.Module):
    """Attention and GEGLU, modulated by the class: one set of six vectors per image.

    x += gate1 * Attention(RMSNorm(x) * (1 + scale1) + shift1)
    x += gate2 * GEGLU(RMSNorm(x) * (1 + scale2) + shift2)
    """

    def __init__(self, width: int, heads: int, dropout: float, qk_norm: bool) -> None:
        super().__init__()
        self.attn = SelfAttention(width, heads, qkv_bias=True, dropout=dropout, qk_norm=qk_norm)
        self.mlp = GEGLU(width)
        self.modulation = nn.Linear(width, 6 * width)

    def early_parts(self) -> list[nn.Module]:
        """Parts with parameters that are called by themselves, before the block is."""
        return [self.modulation]

    def forward(self, stream: ResidualStream, modulation: Tensor, attend: Callable[[Tensor], Tensor]) -> ResidualStream:
        """The block on a stream of [B, N, D], modulated by [B, 1, 6D]; `attend` is one of the modes of `self.attn`."""
        gate1, gate2, scale1, scale2, shift1, shift2 = modulation.chunk(6, -1)  # [B, 1, D] each
        stream, h = stream.modulated(scale1, shift1)  # [B, N, D]
        stream = stream.add(gate1, attend(h))  # [B, N, D]
        stream, h = stream.modulated(scale2, shift2)  # [B, N, D]
        return stream.add(gate2, self.mlp(h))  # [B, N, D]


class ARTransformer(nn.Module):
    """From the class and the coarser latents to the condition of every position (paper, section 3.3).

    Token 0 is the class; scale k >= 1 enters as the upsampled latents of scale k - 1.

    Attributes:
        checkpoint_blocks: compute the activations of blocks again in backward, in training mode.
    """

    checkpoint_blocks = False

    def __init__(self, config: FlowARConfig) -> None:
        super().__init__()
        check_type("config", config, FlowARConfig, "a FlowARConfig")
        width, tokens = config.ar_width, config.tokens
        self.lengths = config.scale_lengths
        self.class_embedding = nn.Embedding(config.num_classes + 1, width)
        self.input_proj = nn.Linear(config.latent_channels, width)
        self.input_positions = nn.Parameter(torch.empty(1, tokens, width))
        self.input_norm = RMSNorm(width)
        blocks = (ARBlock(width, config.ar_heads, config.dropout, config.qk_norm) for _ in range(config.ar_depth))
        self.blocks: Sequence[ARBlock] = nn.ModuleList(blocks)  # type: ignore[assignment]
        self.middle_norm = RMSNorm(width)
        self.middle_proj = nn.Linear(width, width)
        self.middle_positions = nn.Parameter(torch.empty(1, tokens, width))
        self.output_norm = RMSNorm(width)
        self.output_positions = nn.Parameter(torch.empty(1, tokens, width))
        self.heads, self.head_dim = config.ar_heads, width // config.ar_heads
        self.constants = Constants(rotation=rotation_table(config.grids, self.head_dim))

    def modulations(self, class_labels: Tensor) -> list[Tensor]:
        """The modulation [B, 1, 6D] of every block from class_labels [B]."""
        activated = F.silu(self.class_embedding(class_labels))[:, None]
        return [block.modulation(activated) for block in self.blocks]

    def forward(self, inputs: Tensor, class_labels: Tensor) -> Tensor:
        """Teacher-forced conditions z [B, S, D] from the AR inputs [B, S-1, c] of all scales and labels [B]."""
        tokens = torch.cat((self.class_embedding(class_labels)[:, None], self.input_proj(inputs)), 1)  # [B, S, D]

        def attend(block: int, h: Tensor) -> Tensor:
            return self.blocks[block].attn(h, self.constants.rotation, self.lengths, causal=True)

        return self._run(tokens, self.modulations(class_labels), slice(None), attend)

    def step(
        self, inputs: Tensor | None, class_labels: Tensor, modulations: Sequence[Tensor], cache: KVCache
    ) -> Tensor:
        """Conditions z_k [B, n_k, D] of the next scale, whose keys and values join the cache.

        inputs [B, n_k, c] are the upsampled latents of the scale before; None at the first scale.
        """
        tokens = self.class_embedding(class_labels)[:, None] if inputs is None else self.input_proj(inputs)
        span = slice(cache.offset, cache.offset + tokens.shape[1])
        rotation = self.constants.rotation[span]

        def attend(block: int, h: Tensor) -> Tensor:
            return self.blocks[block].attn.cached(h, rotation, cache, block)

        z = self._run(tokens, modulations, span, attend)
        cache.offset = span.stop
        return z

    def new_cache(self, batch: int, dtype: torch.dtype) -> KVCache:
        """An empty cache for `batch` images."""
        device, tokens = self.input_positions.device, sum(self.lengths)
        return KVCache(len(self.blocks), batch, tokens, self.heads, self.head_dim, device, dtype)

    def _run(
        self, tokens: Tensor, modulations: Sequence[Tensor], span: slice, attend: Callable[[int, Tensor], Tensor]
    ) -> Tensor:
        stream = ResidualStream(self.input_norm(tokens + self.input_positions[:, span]))
        for index, (block, modulation) in enumerate(zip(self.blocks, modulations, strict=True)):
            if index == len(self.blocks) // 2:
                _, h = self.middle_norm.after(stream)
                stream = ResidualStream(self.middle_proj(h) + self.middle_positions[:, span])
            checkpoint = self.checkpoint_blocks and self.training
            stream = run_block(block, stream, modulation, partial(attend, index), checkpoint=checkpoint)
        _, h = self.output_norm.after(stream)
        return h + self.output_positions[:, span]
