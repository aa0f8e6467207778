"""An own tokenizer: the coarse half of a discrete cosine transform, without a network.

    python examples/own_tokenizer.py     # writes the folder dct, and reconstructions.png

Any map from pictures to a grid of latents and back will do. A model trains on it by its folder:
`train(TrainConfig(DataConfig(folder="photos", tokenizer="dct"), output="runs/dct", model=FlowARConfig()))`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flowar import FlowARPipeline
from flowar.images import image_grid, to_pil
from flowar.tokenizers import KINDS, Tokenizer, load_tokenizer
from flowar.training import calibrate


class DCTTokenizer(Tokenizer):
    """A latent holds the coarsest `channels` waves of a patch of stride x stride grey pixels; finer ones are lost."""

    kind = "dct"  # its name in tokenizer.json
    basis: Tensor

    def __init__(self, image_channels: int = 1, channels: int = 8, stride: int = 4, **normalization: Any) -> None:
        super().__init__(image_channels, channels, stride, **normalization)
        k = torch.arange(stride)
        waves = torch.cos(math.pi / stride * k[:, None] * (k + 0.5)) * (2 / stride) ** 0.5  # [frequency, pixel]
        waves[0] /= 2**0.5  # now they are orthonormal
        patches = torch.einsum("uy,vx->uvyx", waves, waves).flatten(0, 1)
        coarse_first = (k[:, None] + k).flatten().argsort(stable=True)
        self.register_buffer(
            "basis", patches[coarse_first[:channels], None], persistent=False
        )  # [c, 1, stride, stride]

    def _posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        latents = F.conv2d(images, self.basis, stride=self.stride)
        return latents, torch.zeros_like(latents)  # mean and standard deviation: nothing is random here

    def _decode(self, latents: Tensor) -> Tensor:
        return F.conv_transpose2d(latents, self.basis, stride=self.stride)


KINDS[DCTTokenizer.kind] = DCTTokenizer  # so that load_tokenizer knows it


def main() -> None:
    pictures = FlowARPipeline.from_pretrained("flowar-fashion")(list(range(10))).images
    pixels = torch.from_numpy(np.stack([np.array(picture) for picture in pictures]))[:, None]  # uint8 [10, 1, 28, 28]

    tokenizer = DCTTokenizer()
    calibrate(tokenizer, [pixels])  # models expect latents of mean 0 and variance 1
    tokenizer.save_pretrained("dct")

    images = pixels / 127.5 - 1
    restored = load_tokenizer("dct")
    reconstructed = restored.decode(restored.encode(images))
    error = (reconstructed - images).square().mean()
    print(f"{tokenizer.channels} of 16 coefficients: {10 * math.log10(4 / error):.1f} dB")
    image_grid([*pictures, *to_pil(reconstructed)], columns=10).save("reconstructions.png")


if __name__ == "__main__":
    main()
