"""Representation alignment (REPA, arXiv 2410.06940): the flow transformer's state learns to say what an image shows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowar import FlowAR, FlowARConfig
from flowar.evaluation.extractors import EfficientNetBlocks
from flowar.model import Loss
from flowar.networks.layers import ResidualStream
from flowar.system.tensors import check_tensor
from flowar.tokenizers.base import Tokenizer

BLOCK = 10  # of EfficientNet-Lite0, the last one at stride 16
CHANNELS = 112  # that it has
WEIGHT = 0.5  # as in REPA


network = cache(EfficientNetBlocks)  # one a device


@torch.no_grad()
def features(images: Tensor, grid: Sequence[int]) -> Tensor:
    """Maps [B, 112, h, w] of images [B, 1 or 3, H, W] in [-1, 1], enlarged to 16 pixels for a position of the grid."""
    enlarged = F.interpolate(images, [16 * side for side in grid], mode="bicubic", antialias=True)
    return network(images.device).maps(enlarged, BLOCK + 1)[-1]


def encode_with_features(tokenizer: Tokenizer, images: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior mean and standard deviation, each [B, c + 112, h, w]: behind the latents the features, and zeros."""
    mean, std = tokenizer.posterior(images)
    seen = features(images, mean.shape[2:])
    return torch.cat([mean, seen], 1), torch.cat([std, torch.zeros_like(seen)], 1)


class AlignedFlowAR(FlowAR):
    """Trains on latents with the features of their images behind them, [B, c + 112, h, w]; samples as any FlowAR does.

    A projection of the state after the flow transformer's first block is to point where the features do, at every
    position of the last scale. The loss grows by half of the mean of 1 - cosine.
    """

    def __init__(self, config: FlowARConfig) -> None:
        super().__init__(config)
        width = config.flow_width
        self.projection = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, CHANNELS))

    def loss(self, latents: Tensor, *arguments: Any, **options: Any) -> Loss:
        """As of any FlowAR, and the alignment; errors by scale and image are those of the velocity alone."""
        config = self.config
        check_tensor("latents", latents, (len(latents), config.latent_channels + CHANNELS, *config.grid), latents)
        latents, seen = latents.split([config.latent_channels, CHANNELS], 1)
        states: list[ResidualStream] = []
        block: nn.Module = self.flow_transformer.blocks[0]  # type: ignore[assignment]
        hook = block.register_forward_hook(lambda _block, _arguments, stream: states.append(stream))
        with hook:
            out = super().loss(latents, *arguments, **options)
        state = states[0].sum()[:, -config.scale_lengths[-1] :]  # [B, n_last, W]
        targets = seen.flatten(2).transpose(1, 2)  # [B, n_last, 112]
        distance = 1 - F.cosine_similarity(self.projection(state).float(), targets, dim=-1)
        return out._replace(loss=out.loss + WEIGHT * distance.mean())
