"""Training of small tokenizers: reconstruction, edges, perception, and a little KL."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from flowar.config import is_count, is_number, require
from flowar.progress import step_progress
from flowar.tokenizer import Tokenizer
from flowar.training.perceptual import PerceptualLoss
from flowar.training.small_autoencoders import DEFAULT_WIDTHS, check_widths, new_tokenizer
from flowar.training.transforms import to_unit_range

log = logging.getLogger(__name__)

LOG_EVERY = 100
CPU = torch.device("cpu")


@dataclass
class TokenizerTrainingConfig:
    """How to train a tokenizer.

    Attributes:
        kind: conv, or AutoencoderKL or AutoencoderDC of diffusers (pip install flowar[vae]), here made small.
        channels: latent channels.
        widths: channels of the autoencoder, one per resolution, finest first; the stride is 2 ** (len - 1). Left out,
            16, 48, 96 for conv and 16, 32, 64 for the others.
        steps: optimizer steps in all.
        batch_size: images of a step.
        lr: the highest learning rate, halved for the robust steps; linear warm-up, then cosine to zero.
        warmup_steps: of linear growth.
        edge_weight: weight of the L1 error of neighbouring pixels' differences, which keeps edges sharp.
        perceptual_weight: weight of the distance of EfficientNet-Lite0's features; more than 0 needs the package
            (pip install flowar[eval]).
        kl_weight: weight of the mean KL divergence per latent; keeps latents near a unit Gaussian. AutoencoderDC, which
            has no posterior, goes without.
        robust_steps: further steps in which the decoder alone learns to forgive errors in its latents; the encoder, and
            with it every latent, stays as it is.
        robust_noise: greatest strength of the noise in those steps, in standard deviations of the latents.
        seed: of weights and batches.

    Raises:
        ValueError: for a value that no training can have, naming the field, what was expected and what came.
    """

    kind: str = "conv"
    channels: int = 8
    widths: list[int] = field(default_factory=list)
    steps: int = 1600
    batch_size: int = 64
    lr: float = 2e-3
    warmup_steps: int = 100
    edge_weight: float = 0.5
    perceptual_weight: float = 0.0
    kl_weight: float = 1e-3
    robust_steps: int = 700
    robust_noise: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        require("kind", f"one of {', '.join(DEFAULT_WIDTHS)}", self.kind, self.kind in DEFAULT_WIDTHS)
        for name in ("channels", "steps", "batch_size", "warmup_steps"):
            require(name, "a positive integer", getattr(self, name), is_count(getattr(self, name)))
        require("robust_steps", "an integer >= 0", self.robust_steps, self.robust_steps >= 0)
        weight = self.perceptual_weight
        require("perceptual_weight", "a number >= 0", weight, is_number(weight) and weight >= 0)
        check_widths(self.kind, self.channels, self.all_widths)

    @property
    def all_widths(self) -> list[int]:
        """The widths, or those of the kind. Not filled in: a default must not stay when the kind is changed."""
        return self.widths or [*DEFAULT_WIDTHS[self.kind]]


def train_tokenizer(images: Tensor, config: TokenizerTrainingConfig, device: torch.device = CPU) -> Tokenizer:
    """A tokenizer trained on uint8 images [N, channels, H, W], its latents normalised; in eval mode, frozen.

    Raises:
        ValueError: for images whose sides its stride does not divide.
        MissingPackageError: if the kind needs diffusers, or the perceptual loss EfficientNet-Lite0.
    """
    torch.manual_seed(config.seed)
    tokenizer = new_tokenizer(config.kind, images.shape[1], config.channels, config.all_widths).to(device)
    tokenizer.encode(to_unit_range(images[:1].to(device)))  # which checks their size
    training = TokenizerTraining(tokenizer.train().requires_grad_(True), images, config)
    optimize([*tokenizer.parameters()], config.steps, config.lr, config, training.autoencoding_loss)
    tokenizer.eval()
    calibrate(tokenizer, images.split(256))
    decoder = [weight for name, weight in tokenizer.named_parameters() if ".decoder." in name]
    optimize(decoder, config.robust_steps, config.lr / 2, config, training.robust_decoding_loss)
    return tokenizer.requires_grad_(False)


class TokenizerTraining:
    """The losses of one training, each of a new random batch.

    Attributes:
        tokenizer: whose weights are trained.
        images: uint8 [N, channels, H, W], to draw from.
        perceptual: the perceptual loss, if it has a weight.
    """

    def __init__(self, tokenizer: Tokenizer, images: Tensor, config: TokenizerTrainingConfig) -> None:
        self.tokenizer, self.images, self.config = tokenizer, images, config
        self.device = tokenizer.mean.device
        self.perceptual = PerceptualLoss(self.device) if config.perceptual_weight else None

    def random_batch(self) -> Tensor:
        """[batch_size, channels, H, W] in [-1, 1]."""
        chosen = torch.randint(len(self.images), (self.config.batch_size,))
        return to_unit_range(self.images[chosen].to(self.device))

    def autoencoding_loss(self) -> Tensor:
        """Reconstruction from the posterior, and its KL divergence from a unit Gaussian."""
        batch = self.random_batch()
        mean, std = self.tokenizer._posterior(batch)
        decoded = self.tokenizer._decode(mean + torch.randn_like(mean) * std)
        return self.reconstruction_loss(decoded, batch) + self.config.kl_weight * kl_divergence(mean, std)

    def robust_decoding_loss(self) -> Tensor:
        """Reconstruction from normalised latents with noise on them, of a strength that differs from image to image."""
        batch = self.random_batch()
        latents = self.tokenizer.encode(batch)
        strength = self.config.robust_noise * torch.rand(len(batch), 1, 1, 1, device=self.device)
        noisy = self.tokenizer.denormalize(latents + strength * torch.randn_like(latents))
        return self.reconstruction_loss(self.tokenizer._decode(noisy), batch)

    def reconstruction_loss(self, decoded: Tensor, images: Tensor) -> Tensor:
        """L1 of pixels, and of the differences of neighbouring pixels; the perceptual loss, if it has a weight."""
        error = decoded - images
        edges = error.diff(dim=-2).abs().mean() + error.diff(dim=-1).abs().mean()
        loss = error.abs().mean() + self.config.edge_weight * edges
        return loss + self.config.perceptual_weight * self.perceptual(decoded, images) if self.perceptual else loss


def kl_divergence(mean: Tensor, std: Tensor) -> Tensor:
    """Mean KL divergence of Gaussians from the unit one; 0 for a tokenizer without posterior, whose std is 0."""
    if not std.any():
        return mean.new_zeros(())
    return 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).mean()


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
        means, stds = (part.cpu().double() for part in moments)
        count += means.numel() // channels
        total += means.sum((0, 2, 3))
        squares += (means.square() + stds.square()).sum((0, 2, 3))
    mean = total / max(count, 1)
    std = (squares / max(count, 1) - mean.square()).clamp(min=0).sqrt()
    tokenizer.set_normalization(mean.tolist(), std.tolist())
