"""Pictures of a run's averaged model, drawn by all ranks together."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor

from flowar.images.grid import image_grid
from flowar.pipeline import FlowARPipeline
from flowar.system.files import write_aside
from flowar.system.ranks import Ranks
from flowar.tokenizers.base import Tokenizer
from flowar.training.config import RunConfig
from flowar.training.state import TrainState

log = logging.getLogger(__name__)

ROWS, COLUMNS = 8, 10


def sample_grid(state: TrainState, output: Path, run: RunConfig, tokenizer: Tokenizer, ranks: Ranks) -> Path:
    """Draw samples of the first average, a column per class, into a PNG that the main rank writes.

    A class has the same seeds in every grid. With more than ten classes, each grid shows the next ten. All ranks must
    call this together; each one samples its share.
    """
    classes = grid_classes(state.model.config.num_classes, -(-state.step // run.sample_every))
    labels = classes.repeat(ROWS)
    seeds = (torch.arange(ROWS)[:, None] * state.model.config.num_classes + classes).flatten()
    pipeline = FlowARPipeline(state.average_model(run.optim.ema_decays[0]), tokenizer)
    config, own = pipeline.model.config, ranks.share(labels)
    latents = torch.empty(0, config.latent_channels, *config.grid)
    if len(own):
        latents = pipeline.model.sample(own, seed=ranks.share(seeds).tolist(), progress=False)
    latents = ranks.gather(latents)
    path = output / "samples" / f"step_{state.step:08d}.png"
    if ranks.main:
        images = pipeline.decode(latents)
        write_aside(path, lambda aside: image_grid(images, len(classes)).save(aside, "PNG"))
        log.info("samples of the classes %s in %s", ", ".join(map(str, classes.tolist())), path)
    return path


def grid_classes(num_classes: int, number: int) -> Tensor:
    """The classes of grid `number`, which counts from 1: all, or ten in turn."""
    columns = min(COLUMNS, num_classes)
    return (torch.arange(columns) + (number - 1) * columns) % num_classes
