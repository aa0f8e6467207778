"""The tokenizer that experiments share, and those of diffusers' kinds that they train, once for all seeds."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.budgets import Budget
from flowar.tokenizers.base import RECORD_FILE, Tokenizer
from flowar.tokenizers.loading import load_tokenizer
from flowar.training.tokenizer_config import TokenizerTrainingConfig
from flowar.training.tokenizer_training import train_tokenizer

CONVOLUTIONAL = "convolutional"  # of `flowar train-tokenizer`: 1,600 steps and 700 robust ones, 8 channels
FOLDER = Path(__file__).parent / "tokenizer"  # that it lies in, so that rows stay comparable whatever ships
TRAINED = ("AutoencoderKL", "AutoencoderDC")
CHANNELS, WIDTHS = 8, (16, 32, 64)
BATCH = 16  # half the images in twice the steps reconstruct 1.7 dB better than 32, for the same time
PERCEPTUAL_WEIGHT = 0.2
# Fields of the configuration that are younger than the rows, and here as everything was before.
LATER = ("latent_noise", "flips", "precision", "interval", "save_minutes")
TIMED_STEPS = 4  # that an estimate takes
TIMED_IMAGES = 256


def training_config(name: str, steps: int) -> TokenizerTrainingConfig:
    """How the tokenizer called `name` is trained; half as many steps again make its decoder robust."""
    return TokenizerTrainingConfig(
        kind=name,
        channels=CHANNELS,
        widths=[*WIDTHS],
        steps=steps,
        batch_size=BATCH,
        warmup_steps=max(1, steps // 10),
        perceptual_weight=PERCEPTUAL_WEIGHT,
        robust_steps=steps // 2,
        flips=False,
        precision="float32",
    )


def training_recipe(name: str, budget: Budget) -> dict[str, Any]:
    """All that the trained tokenizer depends on, as JSON has it."""
    config = vars(training_config(name, budget.tokenizer_steps))
    return {field: value for field, value in config.items() if field not in LATER} | {"images": budget.images}


def tokenizer_folder(name: str, budget: Budget, output: Path) -> Path:
    """Where it is, or will be."""
    recipe = json.dumps(training_recipe(name, budget), sort_keys=True)
    return output / "tokenizers" / f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"


def is_trained(name: str, budget: Budget, output: Path) -> bool:
    """Whether training of it came to its end: the record is written last."""
    return (tokenizer_folder(name, budget, output) / RECORD_FILE).exists()


def trained_tokenizer(name: str, budget: Budget, output: Path, images: Tensor, device: torch.device) -> Tokenizer:
    """The tokenizer called `name`: that in its folder, or one trained now, on uint8 images, and left there.

    Raises:
        MissingPackageError: without the extras `vae` and `eval`.
    """
    folder = tokenizer_folder(name, budget, output)
    if not is_trained(name, budget, output):
        config = training_config(name, budget.tokenizer_steps)
        train_tokenizer(images, config, device).save_pretrained(folder)
    return load_tokenizer(folder)


def rehearse(name: str, images: Tensor, device: torch.device) -> tuple[Tokenizer, float]:
    """A tokenizer of a few steps, for what comes after to be timed with, and seconds of a step with its robust half."""
    images = images[:TIMED_IMAGES]

    def timed(steps: int) -> tuple[Tokenizer, float]:
        started = time.perf_counter()
        tokenizer = train_tokenizer(images, training_config(name, steps), device)
        return tokenizer, time.perf_counter() - started

    timed(TIMED_STEPS)  # warms up
    (_, short), (tokenizer, long) = timed(TIMED_STEPS), timed(2 * TIMED_STEPS)
    return tokenizer, (long - short) / TIMED_STEPS  # the difference: networks are made and latents normalised in both
