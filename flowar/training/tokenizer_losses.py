"""The losses that tokenizers are trained with: reconstruction, edges, perception, and a little KL."""

from __future__ import annotations

import torch
from torch import Tensor

from flowar.data.transforms import to_unit_range
from flowar.sampling.noise import mix
from flowar.tokenizers.base import Tokenizer
from flowar.training.perceptual import PerceptualLoss
from flowar.training.tokenizer_config import TokenizerTrainingConfig


class TokenizerLosses:
    """The losses of a training, each on a new batch that depends on the seed and on the step alone.

    Attributes:
        tokenizer: the tokenizer whose weights are trained.
        images: the images that batches are drawn from, uint8 [N, channels, H, W].
        perceptual: the perceptual loss, if it has a weight.
    """

    def __init__(self, tokenizer: Tokenizer, images: Tensor, config: TokenizerTrainingConfig) -> None:
        self.tokenizer, self.images, self.config = tokenizer, images, config
        self.device = tokenizer.mean.device
        self.perceptual = PerceptualLoss(self.device) if config.perceptual_weight else None

    def batch(self, step: int) -> Tensor:
        """The images of a step, [batch_size, channels, H, W] in [-1, 1].

        This also seeds the generator, so that what is drawn afterwards depends on the step alone.
        """
        torch.manual_seed(mix(mix(self.config.seed) + step))
        chosen = torch.randint(len(self.images), (self.config.batch_size,))
        images = self.images[chosen]
        if self.config.flips:
            mirrored = torch.rand(len(images)) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        return to_unit_range(images.to(self.device))

    def autoencoding(self, step: int) -> Tensor:
        """The error of reconstructions from the posterior, plus its KL divergence from a unit Gaussian."""
        batch, noise = self.batch(step), self.config.latent_noise
        mean, std = (part.float() for part in self.tokenizer._posterior(batch))
        latents = mean + torch.randn_like(mean) * std
        if noise:
            deviations = latents.detach().std((0, 2, 3), keepdim=True)
            latents = latents + noise * random_strengths(latents) * deviations * torch.randn_like(latents)
        loss = self.reconstruction(self.tokenizer._decode(latents).float(), batch)
        return loss + self.config.kl_weight * kl_divergence(mean, std)

    def robust_decoding(self, step: int) -> Tensor:
        """The error of reconstructions from latents with noise, whose strength is drawn for each image."""
        batch = self.batch(step)
        latents = self.tokenizer.encode(batch).float()
        strength = self.config.robust_noise * random_strengths(latents)
        noisy = self.tokenizer.denormalize(latents + strength * torch.randn_like(latents))
        return self.reconstruction(self.tokenizer._decode(noisy).float(), batch)

    def reconstruction(self, decoded: Tensor, images: Tensor) -> Tensor:
        """The L1 error of pixels and of differences of neighbours, plus the perceptual loss if it has a weight."""
        error = decoded - images
        edges = error.diff(dim=-2).abs().mean() + error.diff(dim=-1).abs().mean()
        loss = error.abs().mean() + self.config.edge_weight * edges
        if self.perceptual is not None:
            loss = loss + self.config.perceptual_weight * self.perceptual(decoded, images)
        return loss


def random_strengths(latents: Tensor) -> Tensor:
    """A uniform number in [0, 1) for each image: [B, 1, 1, 1]."""
    return torch.rand(len(latents), 1, 1, 1, device=latents.device)


def kl_divergence(mean: Tensor, std: Tensor) -> Tensor:
    """The mean KL divergence of Gaussians from the unit one; 0 if std is 0, as without a posterior."""
    if not std.any():
        return mean.new_zeros(())
    return 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).mean()
