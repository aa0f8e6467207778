"""Training of the small convolutional tokenizer: reconstruction, edges, and a little KL."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flowar.config import is_count, require
from flowar.conv_autoencoder import NORM_GROUPS
from flowar.progress import step_progress
from flowar.tokenizer import ConvTokenizer, Tokenizer
from flowar.training.data import to_unit_range

log = logging.getLogger(__name__)


@dataclass
class TokenizerTrainingConfig:
    """How to train a `ConvTokenizer`.

    Attributes:
        channels: latent channels.
        widths: channels of the autoencoder, one per resolution, finest first; the stride is 2 ** (len - 1).
        steps: optimizer steps in all.
        batch_size: images of a step.
        lr: the highest learning rate; linear warm-up, then cosine to zero.
        warmup_steps: of linear growth.
        edge_weight: weight of the L1 error of neighbouring pixels' differences, which keeps edges sharp.
        kl_weight: weight of the mean KL divergence per latent; keeps latents near a unit Gaussian.
        seed: of weights and batches.

    Raises:
        ValueError: for a value that no training can have, naming the field, what was expected and what came.
    """

    channels: int = 8
    widths: list[int] = field(default_factory=lambda: [16, 48, 96])
    steps: int = 3000
    batch_size: int = 64
    lr: float = 2e-3
    warmup_steps: int = 100
    edge_weight: float = 0.5
    kl_weight: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        grouped = bool(self.widths) and all(is_count(width) and width % NORM_GROUPS == 0 for width in self.widths)
        require("widths", f"multiples of {NORM_GROUPS}", self.widths, grouped)
        for name in ("channels", "steps", "batch_size", "warmup_steps"):
            require(name, "a positive integer", getattr(self, name), is_count(getattr(self, name)))


def train_tokenizer(images: Tensor, config: TokenizerTrainingConfig) -> ConvTokenizer:
    """A tokenizer trained on uint8 images [N, channels, H, W], its latents normalised."""
    torch.manual_seed(config.seed)
    tokenizer = ConvTokenizer(images.shape[1], config.channels, config.widths)
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=config.lr, betas=(0.9, 0.99), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_cosine(step, config))
    with step_progress(config.steps, None, "training tokenizer") as advance:
        for step in range(config.steps):
            batch = to_unit_range(images[torch.randint(len(images), (config.batch_size,))])
            parts = losses(tokenizer, batch)
            loss = parts["l1"] + config.edge_weight * parts["edges"] + config.kl_weight * parts["kl"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            advance()
            if step % 100 == 0:
                log.info("step %d: %s", step, ", ".join(f"{k} {v.item():.4f}" for k, v in parts.items()))
    tokenizer.eval()
    calibrate(tokenizer, images.split(256))
    return tokenizer


def warmup_cosine(step: int, config: TokenizerTrainingConfig) -> float:
    return min(1.0, (step + 1) / config.warmup_steps) * (0.5 + 0.5 * math.cos(math.pi * step / config.steps))


def losses(tokenizer: ConvTokenizer, images: Tensor) -> dict[str, Tensor]:
    """The parts of the loss at images [B, C, H, W]."""
    mean, log_variance = tokenizer.autoencoder.moments(images)
    latents = mean + torch.randn_like(mean) * (log_variance / 2).exp()
    decoded = tokenizer.autoencoder.decode(latents)
    edges = sum((decoded.diff(dim=axis) - images.diff(dim=axis)).abs().mean() for axis in (-2, -1))
    return {
        "l1": (decoded - images).abs().mean(),
        "edges": torch.as_tensor(edges),
        "kl": 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean(),
    }


@torch.no_grad()
def calibrate(tokenizer: Tokenizer, batches: Iterable[Tensor]) -> None:
    """Set the normalisation from the raw latents of uint8 image batches [B, C, H, W]: per channel, over all positions.

    The variance is that of latents drawn from the posterior, as training sees them.

    Raises:
        ValueError: if a channel is constant, so that it cannot be normalised.
    """
    channels = tokenizer.channels
    tokenizer.set_normalization([0.0] * channels, [1.0] * channels)
    count, total, squares = 0, torch.zeros(channels).double(), torch.zeros(channels).double()
    for images in batches:
        moments = tokenizer.posterior(to_unit_range(images.to(tokenizer.mean.device)))
        means, stds = (part.double().cpu() for part in moments)
        count += means.numel() // channels
        total += means.sum((0, 2, 3))
        squares += (means.square() + stds.square()).sum((0, 2, 3))
    mean = total / max(count, 1)
    std = (squares / max(count, 1) - mean.square()).clamp(min=0).sqrt()
    tokenizer.set_normalization(mean.tolist(), std.tolist())
