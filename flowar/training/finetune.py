"""Starting from a trained model, with the same classes or others."""

from __future__ import annotations

from pathlib import Path

import torch

from flowar.config import FlowARConfig, require
from flowar.model import FlowAR
from flowar.training.config import FinetuneConfig

CLASS_EMBEDDING = "ar_transformer.class_embedding.weight"

# Fields of the configuration that weights depend on, the classes apart.
SHAPE = (
    *("latent_channels", "latent_size", "scales", "upsample"),
    *("ar_width", "ar_depth", "ar_heads"),
    *("flow_width", "flow_depth", "flow_heads", "flow_block", "qk_norm"),
)


def load_start(finetune: FinetuneConfig) -> FlowAR:
    """The model to start from.

    Raises:
        CheckpointError: if it cannot be loaded.
    """
    published = Path(finetune.checkpoint).suffix in (".pth", ".pt", ".ckpt")
    return (FlowAR.from_published if published else FlowAR.from_pretrained)(finetune.checkpoint)


def start_from(old: FlowAR, config: FlowARConfig, classes: list[int] | None) -> FlowAR:
    """A model of `config` with the weights of `old`: all but the class embedding, whose rows `classes` chooses.

    Raises:
        ValueError: if the two have weights of other shapes or another grid, or `classes` names none of the old model's.
    """
    rows = class_rows(old.config.num_classes, config.num_classes, classes)
    expected, found = old.config.to_dict(), config.to_dict()
    for name in SHAPE:
        require(
            f"finetune: {name}", f"{expected[name]}, as the checkpoint has", found[name], found[name] == expected[name]
        )
    weights = old.state_dict()
    weights[CLASS_EMBEDDING] = weights[CLASS_EMBEDDING][torch.tensor(rows)]
    model = FlowAR(config)
    model.load_state_dict(weights)
    return model


def class_rows(old: int, new: int, classes: list[int] | None) -> list[int]:
    """For every class of the new model, and its null class, the row of the old embedding, whose last row is null."""
    chosen = classes if classes is not None else (list(range(old)) if old == new else [-1] * new)
    require("finetune.classes", f"{new} classes", f"{len(chosen)}", len(chosen) == new)
    for each in chosen:
        require("finetune.classes", f"numbers from -1 to {old - 1}", each, -1 <= each < old)
    return [old if each == -1 else each for each in chosen] + [old]
