"""A scale sequence made of images: each scale is the tokenizer's encoding of the image, down-sampled (as in VAR)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from flowar import FlowAR, FlowARConfig
from flowar.networks.latent_pyramid import LatentPyramid
from flowar.system.tensors import check_tensor
from flowar.tokenizers.base import Tokenizer


def encode_scales(tokenizer: Tokenizer, images: Tensor, config: FlowARConfig) -> tuple[Tensor, Tensor]:
    """Posterior mean and standard deviation, each [B, c, S, 1], of images [B, channels, H, W] at all scales."""
    means: list[Tensor] = []
    stds: list[Tensor] = []
    for grid in config.grids:
        size = [side * tokenizer.stride for side in grid]
        posterior = tokenizer.posterior(F.interpolate(images, size, mode="area"))
        for parts, part in zip((means, stds), posterior, strict=True):
            parts.append(part.flatten(2)[..., None])
    return torch.cat(means, 2), torch.cat(stds, 2)


class EncodedScales(LatentPyramid):
    """Targets are given; what a scale sees of the one before is made as in any latent pyramid."""

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Latents [B, c, S, 1] of all scales to targets [B, S, c] and the AR inputs [B, S - 1, c].

        Raises:
            ValueError: for latents of another shape.
        """
        check_tensor("latents", latents, (*latents.shape[:1], self.channels, sum(self.lengths), 1), latents)
        targets = latents.squeeze(-1).transpose(1, 2).contiguous()
        coarser = targets.split(list(self.lengths), 1)[:-1]
        return targets, torch.cat([self.upsample(tokens, k) for k, tokens in enumerate(coarser, 1)], 1)


class EncodedScalesFlowAR(FlowAR):
    """Trains on the latents of all scales, [B, c, S, 1]; samples as any FlowAR does."""

    def __init__(self, config: FlowARConfig) -> None:
        super().__init__(config)
        self.pyramid = EncodedScales(config)

    def _labels_of(self, latents: Tensor, class_labels: Tensor) -> Tensor:
        return self.check_labels(class_labels, null_class=True)  # the pyramid checks the latents
