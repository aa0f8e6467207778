"""The training of a small tokenizer: autoencoding, normalisation, then a decoder that tolerates errors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor

from flowar.data.transforms import to_unit_range
from flowar.errors import TrainingError
from flowar.system.lock import locked
from flowar.system.memory import check_memory
from flowar.system.progress import step_progress
from flowar.system.signals import StopRequest
from flowar.tokenizers.base import Tokenizer
from flowar.training.calibration import calibrate
from flowar.training.step import forward_precision, training_precision
from flowar.training.tokenizer_config import TokenizerTrainingConfig
from flowar.training.tokenizer_losses import TokenizerLosses
from flowar.training.tokenizer_state import TokenizerState
from flowar.training.tokenizer_watch import Watch, WatchOptions

CPU = torch.device("cpu")
CALIBRATION_BATCH = 256


def train_tokenizer(
    images: Tensor, config: TokenizerTrainingConfig, device: torch.device = CPU, watched: WatchOptions | None = None
) -> Tokenizer:
    """Train a tokenizer, and normalise its latents.

    Args:
        images: the images to train on, uint8 [N, channels, H, W].
        config: the configuration; what it leaves out follows from the size of the images, and flips are then off.
        device: the device to train on.
        watched: where checkpoints, measurements and pictures go; nothing is written if left out.

    Returns:
        The tokenizer in eval mode, without gradients.

    Raises:
        ValueError: for images whose sides its stride does not divide, a checkpoint of another training, and a folder
            that another process writes to.
        MissingPackageError: if the kind needs diffusers, or the perceptual loss EfficientNet-Lite0.
        TrainingError: for a loss that is not finite, at the end of an interval or of all.
        OSError: if writing fails; checkpoints that were there stay.
        KeyboardInterrupt, SystemExit: for SIGINT and for SIGTERM (143) in a training that is watched, after the step
            that it is in, whose checkpoint is then there; a second signal ends the process at once.
    """
    height, width = images.shape[2:]
    pixels = images[0].numel()
    check_memory("batch_size", f"{config.batch_size} images of {width}x{height}", 4 * config.batch_size * pixels)
    state = TokenizerState.new(
        config.for_images((height, width), flips=False), images.shape[1], (height, width), device
    )
    state.tokenizer.encode(to_unit_range(images[:1].to(device)))  # which checks their size
    losses = TokenizerLosses(state.tokenizer, images, state.config)
    with ExitStack() as held:
        watch = None
        if watched:
            held.enter_context(locked(watched.output))
            watch = Watch(state, watched, held.enter_context(StopRequest()))
            held.callback(watch.close)
        both_stages(state, losses, watch)
    return state.tokenizer


def both_stages(state: TokenizerState, losses: TokenizerLosses, watch: Watch | None) -> None:
    """Train from where `state` is to the end of both stages."""
    tokenizer = state.tokenizer.train()
    run_until(state.steps, state, losses.autoencoding, watch)
    tokenizer.eval()
    if state.step == state.steps:
        calibrate(tokenizer, losses.images.split(CALIBRATION_BATCH))
        state.begin_robust_steps()
    for name, weight in tokenizer.named_parameters():
        weight.requires_grad_(".decoder." in name)
    run_until(state.all_steps, state, losses.robust_decoding, watch)
    tokenizer.requires_grad_(False)


def run_until(last: int, state: TokenizerState, loss: Callable[[int], Tensor], watch: Watch | None) -> None:
    """Minimise `loss`, a function of the number of the step, until `last` steps are made."""
    tokenizer, device = state.tokenizer, state.tokenizer.mean.device
    precision = training_precision(state.config.precision, device)
    training = tokenizer.training
    with step_progress(state.all_steps, None, "training tokenizer", state.step) as advance:
        while state.step < last:
            with forward_precision(precision, device):
                value = loss(state.step)
            state.update(value)
            advance()
            looked_at = state.step == last or state.step % state.config.interval == 0
            if looked_at and not value.isfinite():
                raise TrainingError(
                    f"step {state.step}: expected a finite loss, got {value.item()}; a lower lr may help"
                )
            if watch:
                watch.after_step(state, value)
                tokenizer.train(training)
