"""A small convolutional autoencoder with stride 4, for images of a few dozen pixels.

The published models decode with KL-16, a 66-million-parameter network in diffusers. The model shipped with this
package needs a decoder that installs with it: this one has half a million parameters and no dependency but torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from flowar.tokenizers.widths import NORM_GROUPS


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, 3x3 convolution, twice, around a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(NORM_GROUPS, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(NORM_GROUPS, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class ConvAutoencoder(nn.Module):
    """An encoder to the moments of a Gaussian posterior, and a decoder; one width per resolution, finest first.

    Images [B, image_channels, H, W] in [-1, 1]; latents [B, latent_channels, H/s, W/s], s = 2 ** (len(widths) - 1).
    """

    def __init__(self, image_channels: int, latent_channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        encoder: list[nn.Module] = [nn.Conv2d(image_channels, widths[0], 3, padding=1), ResidualBlock(widths[0])]
        for fine, coarse in pairwise(widths):
            encoder += [nn.Conv2d(fine, coarse, 3, stride=2, padding=1), ResidualBlock(coarse)]
        encoder += [
            nn.GroupNorm(NORM_GROUPS, widths[-1]),
            nn.SiLU(),
            nn.Conv2d(widths[-1], 2 * latent_channels, 3, padding=1),
        ]
        decoder: list[nn.Module] = [nn.Conv2d(latent_channels, widths[-1], 3, padding=1), ResidualBlock(widths[-1])]
        for fine, coarse in zip(widths[-2::-1], widths[:0:-1], strict=True):
            decoder += [ResidualBlock(coarse), nn.Upsample(scale_factor=2), nn.Conv2d(coarse, fine, 3, padding=1)]
        decoder += [ResidualBlock(widths[0]), nn.GroupNorm(NORM_GROUPS, widths[0]), nn.SiLU()]
        decoder += [nn.Conv2d(widths[0], image_channels, 3, padding=1)]
        self.encoder = nn.Sequential(*encoder)
        self.decoder = nn.Sequential(*decoder)

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the posterior, each [B, latent_channels, H/s, W/s]."""
        mean, log_variance = self.encoder(images).chunk(2, 1)
        return mean, log_variance.clamp(-12, 4)

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(latents)
