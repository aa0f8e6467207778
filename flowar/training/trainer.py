"""The training loop."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from flowar.config import FlowARConfig
from flowar.errors import DataError
from flowar.files import write_aside, write_json
from flowar.model import FlowAR
from flowar.pipeline import FlowARPipeline, image_grid
from flowar.precision import default_device, native_bfloat16, parse_dtype
from flowar.progress import step_progress
from flowar.tokenizer import Tokenizer
from flowar.training.config import OptimConfig, TrainConfig
from flowar.training.draws import Draws
from flowar.training.latent_store import LatentStore
from flowar.training.load_data import load_data
from flowar.training.metrics import MetricsWriter
from flowar.training.state import TrainState, checkpoints, load_checkpoint, save_checkpoint

log = logging.getLogger(__name__)

GRID_ROWS, GRID_COLUMNS = 8, 10


def train(config: TrainConfig) -> Path:
    """Run or resume a training; returns the folder of the exported model (averaged weights and tokenizer).

    Raises:
        ValueError: for a configuration, data set, tokenizer or checkpoint that does not fit.
    """
    torch.manual_seed(config.seed)
    output, device = Path(config.output), default_device(config.device)
    if not config.resume and checkpoints(output / "checkpoints"):
        raise DataError(f"output: expected a folder without a run, found checkpoints in {output}; resume it instead")
    data, tokenizer = load_data(config.data, output, config.model.num_classes)
    state = new_state(FlowAR(fitting(config.model, data, tokenizer)).to(device), config.optim)
    if config.resume:
        log.info("resumed from %s", load_checkpoint(state, output / "checkpoints"))
    write_json(output / "config.json", asdict(replace(config, resume=False)))
    run(state, data, tokenizer, config, device)
    folder = output / "model"
    FlowARPipeline(state.ema, tokenizer).save_pretrained(folder, parse_dtype(config.export_dtype))
    return folder


def fitting(config: FlowARConfig, data: LatentStore, tokenizer: Tokenizer) -> FlowARConfig:
    """`config` with the channels, the grid and the tokenizer of the data; scales that nobody chose follow the grid.

    Raises:
        ValueError: if the scales that were chosen do not end in the grid of the data.
    """
    chosen = config.grids != FlowARConfig(latent_size=config.grid).grids
    return replace(
        config,
        latent_channels=tokenizer.channels,
        latent_size=data.grid,
        scales=config.scales if chosen else None,
        tokenizer=tokenizer.record(),
    )


def new_state(model: FlowAR, optim: OptimConfig) -> TrainState:
    """A fresh optimizer and average for `model`."""
    ema = copy.deepcopy(model).eval().requires_grad_(False)
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    plain = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return TrainState(model, ema, torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas))


def run(state: TrainState, data: LatentStore, tokenizer: Tokenizer, config: TrainConfig, device: torch.device) -> None:
    """Train from `state.step` to the end, logging, sampling and saving on the way."""
    output, optim = Path(config.output), config.optim
    steps = total_steps(optim, len(data))
    autocast = training_autocast(config.precision, device)
    metrics = MetricsWriter(output, state.step)
    started, logged = time.perf_counter(), state.step
    with step_progress(steps, None, "training", state.step) as advance:
        for latents, labels in batches(data, optim.batch_size, config.seed, state.step, steps):
            loss, per_scale, grad_norm = training_step(
                state, latents.to(device), labels.to(device), learning_rate(state.step, steps, optim), optim, autocast
            )
            advance()
            if state.step % config.log_every == 0 or state.step == steps:
                now = time.perf_counter()
                rate = (state.step - logged) * optim.batch_size / (now - started)
                started, logged = now, state.step
                values = {
                    "loss": loss.item(),
                    "loss_scale": per_scale.tolist(),
                    "grad_norm": grad_norm.item(),
                    "lr": learning_rate(state.step - 1, steps, optim),
                    "images_per_second": rate,
                }
                metrics.write(state.step, values)
                log.info("step %d of %d: loss %.4f, %.0f images/s", state.step, steps, loss.item(), rate)
            if config.sample_every and (state.step % config.sample_every == 0 or state.step == steps):
                metrics.image(state.step, "samples", sample_grid(state, tokenizer, output / "samples"))
            if state.step % config.save_every == 0 or state.step == steps:
                save_checkpoint(state, output / "checkpoints")
    metrics.close()


def training_step(
    state: TrainState,
    latents: Tensor,
    class_labels: Tensor,
    lr: float,
    optim: OptimConfig,
    autocast: AbstractContextManager[object],
) -> tuple[Tensor, Tensor, Tensor]:
    """One optimizer step; returns the loss, the loss per scale and the gradient norm before clipping."""
    state.model.train()
    with autocast:
        out = state.model.loss(latents, class_labels)
    state.optimizer.zero_grad(set_to_none=True)
    out.loss.backward()
    grad_norm = nn.utils.clip_grad_norm_(state.model.parameters(), optim.max_grad_norm)
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    state.optimizer.step()
    state.step += 1
    update_average(state.ema, state.model, optim.ema_decay, state.step)
    return out.loss.detach(), out.per_scale.detach(), grad_norm


@torch.no_grad()
def update_average(ema: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """`ema += (1 - decay) (model - ema)`; early on the average forgets faster, so that it is not the initialisation."""
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_([*ema.parameters()], [*model.parameters()], 1 - decay)


def learning_rate(step: int, steps: int, optim: OptimConfig) -> float:
    """Linear warm-up, then cosine from `lr` to `final_lr` at the last step."""
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    progress = (step - optim.warmup_steps) / max(1, steps - optim.warmup_steps)
    return optim.final_lr + (optim.lr - optim.final_lr) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def total_steps(optim: OptimConfig, images: int) -> int:
    """Steps of the run; an epoch drops the images that do not fill a batch.

    Raises:
        DataError: if there are fewer images than one batch.
    """
    if images < optim.batch_size:
        raise DataError(f"batch_size: expected at most the {images} images of the data set, got {optim.batch_size}")
    return optim.steps or max(1, round((optim.epochs or 0) * (images // optim.batch_size)))


def batches(data: LatentStore, size: int, seed: int, first: int, last: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches number `first` to `last`: the order of an epoch depends on the seed and its number alone."""
    per_epoch = len(data) // size
    for epoch in range(first // per_epoch, -(-last // per_epoch)):
        generator = torch.Generator().manual_seed(hash((seed, epoch)))
        order = torch.randperm(len(data), generator=generator)
        start, stop = max(first - epoch * per_epoch, 0), min(last - epoch * per_epoch, per_epoch)
        for index in range(start, stop):
            indices = order[index * size : (index + 1) * size]
            yield data.batch(indices, Draws.of(seed, epoch, indices))


def training_autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """bf16 autocast if asked for, or if "auto" and the hardware is good at it."""
    if precision == "bf16" or (precision == "auto" and native_bfloat16(device)):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def sample_grid(state: TrainState, tokenizer: Tokenizer, folder: Path) -> Path:
    """Samples of the averaged model from fixed seeds, a column a class (the first ten), as a PNG."""
    classes = min(GRID_COLUMNS, state.model.config.num_classes)
    labels = torch.arange(classes).repeat(GRID_ROWS)
    images = FlowARPipeline(state.ema, tokenizer)(labels, seed=0, progress=False).images
    path = folder / f"step_{state.step:08d}.png"
    write_aside(path, lambda aside: image_grid(images, classes).save(aside, "PNG"))
    return path
