"""The tokenizer that `flowar train-tokenizer` makes by default."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from flowar.tokenizers.base import Tokenizer
from flowar.tokenizers.conv_autoencoder import ConvAutoencoder
from flowar.tokenizers.widths import check_grouped


class ConvTokenizer(Tokenizer):
    """The small autoencoder of `conv_autoencoder.py`; `flowar train-tokenizer` trains it."""

    kind = "conv"

    def __init__(
        self,
        image_channels: int = 3,
        channels: int = 8,
        widths: Sequence[int] = (16, 48, 96),
        stride: int | None = None,
        **normalization: Any,
    ) -> None:
        check_grouped(widths)
        expected = 2 ** (len(widths) - 1)
        if stride not in (None, expected):
            raise ValueError(f"conv tokenizer: expected stride {expected} with widths {tuple(widths)}, got {stride}")
        super().__init__(image_channels, channels, expected, **normalization)
        self.widths = list(widths)
        self.autoencoder = ConvAutoencoder(image_channels, channels, widths)
        self._arrange_decoder()

    @property
    def options(self) -> dict[str, Any]:
        return {"widths": self.widths}

    @property
    def decoder(self) -> nn.Module:
        return self.autoencoder.decoder

    def _posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.autoencoder.moments(images)
        return mean, (log_variance / 2).exp()

    def _decode(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents).float()
