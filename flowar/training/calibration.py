"""The statistics that normalise a tokenizer's latents, and the warning about latents that are not normalised."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch
from torch import Tensor

from flowar.data.transforms import to_unit_range
from flowar.errors import FlowARError
from flowar.system.arguments import check_type
from flowar.tokenizers.base import Tokenizer

log = logging.getLogger(__name__)

LARGEST_MEAN = 0.5  # of latents that pass for normalised
USUAL_STDS = (0.5, 2.0)


@torch.no_grad()
def calibrate(tokenizer: Tokenizer, batches: Iterable[Tensor]) -> None:
    """Set the normalisation of a tokenizer from images: mean and standard deviation of each latent channel.

    The variance is that of latents drawn from the posterior, as training sees them.

    Args:
        tokenizer: the tokenizer, whose `mean` and `std` are set.
        batches: uint8 images [B, C, H, W], which are seen once.

    Raises:
        ValueError: if a channel is constant, so that it cannot be normalised, and for what are no such images.
    """
    check_type("tokenizer", tokenizer, Tokenizer, "a tokenizer")
    check_type("batches", batches, Iterable, "batches of images")
    channels = tokenizer.channels
    tokenizer.set_normalization([0.0] * channels, [1.0] * channels)
    count, total, squares = 0, torch.zeros(channels).double(), torch.zeros(channels).double()
    for images in batches:
        check_type("batches", images, Tensor, "tensors uint8 [B, C, H, W]")
        if images.dtype != torch.uint8:
            raise FlowARError(f"batches: expected torch.uint8, got {images.dtype}")
        moments = tokenizer.posterior(to_unit_range(images.to(tokenizer.mean.device)))
        means, stds = (part.cpu().double() for part in moments)
        count += means.numel() // channels
        total += means.sum((0, 2, 3))
        squares += (means.square() + stds.square()).sum((0, 2, 3))
    mean = total / max(count, 1)
    std = (squares / max(count, 1) - mean.square()).clamp(min=0).sqrt()
    tokenizer.set_normalization(mean.tolist(), std.tolist())


def warn_unless_normalised(mean: Tensor, std: Tensor) -> None:
    """Log a warning if latents are far from mean 0 and variance 1, which models expect.

    Args:
        mean, std: the posteriors of some images, each [B, c, h, w]; std may be 0.
    """
    mean, std = mean.cpu().double(), std.cpu().double()
    means = mean.mean((0, 2, 3))
    variances = mean.var((0, 2, 3), unbiased=False) + std.square().mean((0, 2, 3))
    stds, (low, high) = variances.sqrt(), USUAL_STDS
    if means.abs().max() > LARGEST_MEAN or stds.min() < low or stds.max() > high:
        log.warning(
            "latents: expected channels of mean 0 and standard deviation 1, got means from %.2f to %.2f, standard "
            "deviations from %.2f to %.2f: `flowar calibrate-tokenizer` measures what this tokenizer lacks",
            *(means.min(), means.max(), stds.min(), stds.max()),
        )
