"""Fine-tuning: a new model with the weights of a trained one, for the same classes or others."""

from __future__ import annotations

from pathlib import Path

import torch

from flowar.config import FlowARConfig, grid_names, require
from flowar.model import FlowAR
from flowar.training.config import FinetuneConfig
from flowar.training.positions import POSITIONS, interpolate_positions

CLASS_EMBEDDING = "ar_transformer.class_embedding.weight"

# Fields of the configuration that weights depend on, the classes and the grids apart.
SHAPE = (
    *("latent_channels", "upsample"),
    *("ar_width", "ar_depth", "ar_heads"),
    *("flow_width", "flow_depth", "flow_heads", "flow_block", "qk_norm", "jumps"),
)


def load_start(finetune: FinetuneConfig) -> FlowAR:
    """Load the model to start from.

    Raises:
        CheckpointError: if it cannot be loaded.
    """
    published = Path(finetune.checkpoint).suffix in (".pth", ".pt", ".ckpt")
    return (FlowAR.from_published if published else FlowAR.from_pretrained)(finetune.checkpoint)


def start_from(old: FlowAR, config: FlowARConfig, finetune: FinetuneConfig) -> FlowAR:
    """A model of `config` with the weights of `old`.

    `finetune.classes` chooses the rows of the class embedding. Grids must be the same, unless
    `finetune.interpolate_positions` says what to do where they are not.

    Raises:
        ValueError: if the two have weights of other shapes, grids that differ without being asked for, or `classes`
            names none of the old model's.
    """
    rows = class_rows(old.config.num_classes, config.num_classes, finetune.classes)
    expected, found = old.config.to_dict(), config.to_dict()
    for name in SHAPE:
        require(
            f"finetune: {name}", f"{expected[name]}, as the checkpoint has", found[name], found[name] == expected[name]
        )
    if config.grids != old.config.grids and not finetune.interpolate_positions:
        raise other_grids(old.config, config)
    weights = old.state_dict()
    for name in POSITIONS:
        weights[name] = interpolate_positions(weights[name], old.config.grids, config.grids)
    weights[CLASS_EMBEDDING] = weights[CLASS_EMBEDDING][torch.tensor(rows)]
    model = FlowAR(config)
    model.load_state_dict(weights)
    return model


def other_grids(old: FlowARConfig, new: FlowARConfig) -> ValueError:
    """The error for grids that are not the checkpoint's."""
    expected = f"the checkpoint's grids {grid_names(old.grids)}, whose positions it has in {', '.join(POSITIONS)}"
    remedy = "finetune.interpolate_positions true interpolates them"
    return ValueError(f"finetune: expected {expected}; got {grid_names(new.grids)}; {remedy}")


def class_rows(old: int, new: int, classes: list[int] | None) -> list[int]:
    """The row of the old embedding that each class of the new model begins with, and the null class, which is last."""
    chosen = classes if classes is not None else (list(range(old)) if old == new else [-1] * new)
    require("finetune.classes", f"{new} classes", f"{len(chosen)}", len(chosen) == new)
    for each in chosen:
        require("finetune.classes", f"numbers from -1 to {old - 1}", each, -1 <= each < old)
    return [old if each == -1 else each for each in chosen] + [old]
