"""Images to latents and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowar.system.lazy import lazy_names

if TYPE_CHECKING:
    from flowar.tokenizers.autoencoder import AutoencoderTokenizer
    from flowar.tokenizers.base import Tokenizer
    from flowar.tokenizers.conv import ConvTokenizer
    from flowar.tokenizers.loading import KINDS, load_tokenizer
    from flowar.tokenizers.pixel import PixelTokenizer

__all__ = ["KINDS", "AutoencoderTokenizer", "ConvTokenizer", "PixelTokenizer", "Tokenizer", "load_tokenizer"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "autoencoder": ["AutoencoderTokenizer"],
        "base": ["Tokenizer"],
        "conv": ["ConvTokenizer"],
        "loading": ["KINDS", "load_tokenizer"],
        "pixel": ["PixelTokenizer"],
    },
)
