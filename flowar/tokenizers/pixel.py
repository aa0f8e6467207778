"""Patches of pixels as latents."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flowar.system.arguments import check_integer
from flowar.tokenizers.base import Tokenizer

MOST_STRIDE = 256  # a latent of RGB has 196,608 channels then


class PixelTokenizer(Tokenizer):
    """Space to depth: a latent is a patch of pixels. There are no weights, and nothing is lost."""

    kind = "pixel"

    def __init__(
        self, image_channels: int = 3, stride: int = 4, channels: int | None = None, **normalization: Any
    ) -> None:
        pixels = check_integer("stride", stride, 1, MOST_STRIDE) ** 2
        expected = check_integer("image_channels", image_channels) * pixels
        if channels not in (None, expected):
            raise ValueError(f"pixel tokenizer: expected {expected} channels at stride {stride}, got {channels}")
        super().__init__(image_channels, expected, stride, **normalization)

    def _posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        latents = F.pixel_unshuffle(images, self.stride)
        return latents, torch.zeros_like(latents)

    def _decode(self, latents: Tensor) -> Tensor:
        return F.pixel_shuffle(latents, self.stride)
