"""Pictures of a run's averaged model, drawn by all ranks together."""

from __future__ import annotations

from pathlib import Path

import torch

from flowar.files import write_aside
from flowar.pipeline import FlowARPipeline, image_grid
from flowar.tokenizer import Tokenizer
from flowar.training.ranks import Ranks
from flowar.training.state import TrainState

ROWS, COLUMNS = 8, 10


def sample_grid(state: TrainState, decay: float, tokenizer: Tokenizer, output: Path, ranks: Ranks) -> Path:
    """Samples of an average from fixed seeds, a column a class (the first ten), as a PNG of the main rank.

    All ranks must call this together: each one samples its share.
    """
    classes = min(COLUMNS, state.model.config.num_classes)
    labels, seeds = torch.arange(classes).repeat(ROWS), torch.arange(classes * ROWS)
    pipeline = FlowARPipeline(state.average_model(decay), tokenizer)
    config, own = pipeline.model.config, ranks.share(labels)
    latents = torch.empty(0, config.latent_channels, *config.grid)
    if len(own):
        latents = pipeline.model.sample(own, seed=ranks.share(seeds).tolist(), progress=False)
    latents = ranks.gather(latents)
    path = output / "samples" / f"step_{state.step:08d}.png"
    if ranks.main:
        images = pipeline.decode(latents)
        write_aside(path, lambda aside: image_grid(images, classes).save(aside, "PNG"))
    return path
