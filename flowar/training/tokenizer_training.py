"""Training of the small convolutional tokenizer: reconstruction, edges, and a little KL."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from flowar.config import is_count, require
from flowar.conv_autoencoder import NORM_GROUPS
from flowar.progress import step_progress
from flowar.tokenizer import ConvTokenizer, Tokenizer
from flowar.training.transforms import to_unit_range

log = logging.getLogger(__name__)

LOG_EVERY = 100


@dataclass
class TokenizerTrainingConfig:
    """How to train a `ConvTokenizer`.

    Attributes:
        channels: latent channels.
        widths: channels of the autoencoder, one per resolution, finest first; the stride is 2 ** (len - 1).
        steps: optimizer steps in all.
        batch_size: images of a step.
        lr: the highest learning rate, halved for the robust steps; linear warm-up, then cosine to zero.
        warmup_steps: of linear growth.
        edge_weight: weight of the L1 error of neighbouring pixels' differences, which keeps edges sharp.
        kl_weight: weight of the mean KL divergence per latent; keeps latents near a unit Gaussian.
        robust_steps: further steps in which the decoder alone learns to forgive errors in its latents; the encoder, and
            with it every latent, stays as it is.
        robust_noise: greatest strength of the noise in those steps, in standard deviations of the latents.
        seed: of weights and batches.

    Raises:
        ValueError: for a value that no training can have, naming the field, what was expected and what came.
    """

    channels: int = 8
    widths: list[int] = field(default_factory=lambda: [16, 48, 96])
    steps: int = 1600
    batch_size: int = 64
    lr: float = 2e-3
    warmup_steps: int = 100
    edge_weight: float = 0.5
    kl_weight: float = 1e-3
    robust_steps: int = 700
    robust_noise: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        grouped = bool(self.widths) and all(is_count(width) and width % NORM_GROUPS == 0 for width in self.widths)
        require("widths", f"multiples of {NORM_GROUPS}", self.widths, grouped)
        for name in ("channels", "steps", "batch_size", "warmup_steps"):
            require(name, "a positive integer", getattr(self, name), is_count(getattr(self, name)))
        require("robust_steps", "an integer >= 0", self.robust_steps, self.robust_steps >= 0)


def train_tokenizer(images: Tensor, config: TokenizerTrainingConfig) -> ConvTokenizer:
    """A tokenizer trained on uint8 images [N, channels, H, W], its latents normalised."""
    torch.manual_seed(config.seed)
    tokenizer = ConvTokenizer(images.shape[1], config.channels, config.widths)
    optimize(
        [*tokenizer.parameters()], config.steps, config.lr, config, lambda: autoencoding_loss(tokenizer, images, config)
    )
    tokenizer.eval()
    calibrate(tokenizer, images.split(256))
    train_robust_decoder(tokenizer, images, config)
    return tokenizer


def train_robust_decoder(tokenizer: ConvTokenizer, images: Tensor, config: TokenizerTrainingConfig) -> None:
    """Train the decoder alone, for `robust_steps` steps, to forgive latents that are a little off."""
    decoder = [*tokenizer.autoencoder.decoder.parameters()]
    optimize(
        decoder, config.robust_steps, config.lr / 2, config, lambda: robust_decoding_loss(tokenizer, images, config)
    )


def optimize(
    parameters: list[nn.Parameter],
    steps: int,
    lr: float,
    config: TokenizerTrainingConfig,
    loss: Callable[[], Tensor],
) -> None:
    """Minimise `loss`, which draws a batch at every call, with AdamW: linear warm-up, then cosine to zero."""
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.99), weight_decay=0.01)

    def warmup_cosine(step: int) -> float:
        return min(1.0, (step + 1) / config.warmup_steps) * (0.5 + 0.5 * math.cos(math.pi * step / max(steps, 1)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine)
    with step_progress(steps, None, "training tokenizer") as advance:
        for step in range(steps):
            value = loss()
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
            advance()
            if step % LOG_EVERY == 0:
                log.info("step %d of %d: loss %.4f", step, steps, value.item())


def random_batch(images: Tensor, config: TokenizerTrainingConfig) -> Tensor:
    """[batch_size, channels, H, W] in [-1, 1]."""
    return to_unit_range(images[torch.randint(len(images), (config.batch_size,))])


def autoencoding_loss(tokenizer: ConvTokenizer, images: Tensor, config: TokenizerTrainingConfig) -> Tensor:
    """Reconstruction from the posterior, and its KL divergence from a unit Gaussian."""
    batch = random_batch(images, config)
    mean, log_variance = tokenizer.autoencoder.moments(batch)
    latents = mean + torch.randn_like(mean) * (log_variance / 2).exp()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return reconstruction_loss(tokenizer.autoencoder.decode(latents), batch, config) + config.kl_weight * kl


def robust_decoding_loss(tokenizer: ConvTokenizer, images: Tensor, config: TokenizerTrainingConfig) -> Tensor:
    """Reconstruction from normalised latents with noise on them, of a strength that differs from image to image."""
    batch = random_batch(images, config)
    latents = tokenizer.encode(batch)
    strength = config.robust_noise * torch.rand(len(batch), 1, 1, 1)
    noisy = tokenizer.denormalize(latents + strength * torch.randn_like(latents))
    return reconstruction_loss(tokenizer.autoencoder.decode(noisy), batch, config)


def reconstruction_loss(decoded: Tensor, images: Tensor, config: TokenizerTrainingConfig) -> Tensor:
    """L1 of pixels, and of the differences of neighbouring pixels."""
    error = decoded - images
    edges = error.diff(dim=-2).abs().mean() + error.diff(dim=-1).abs().mean()
    return error.abs().mean() + config.edge_weight * edges


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
