"""What a run trains on: latents, and the tokenizer that they came from."""

from __future__ import annotations

from pathlib import Path

from flowar.errors import DataError
from flowar.tokenizer import Tokenizer
from flowar.training.data import open_images
from flowar.training.data_config import DataConfig
from flowar.training.latents import LatentDataset, cached_latents
from flowar.training.tokenizers import tokenizer_for_training


def load_data(config: DataConfig, output: Path, num_classes: int | None = None) -> tuple[LatentDataset, Tokenizer]:
    """The cached latents of the configured images, and the tokenizer they came from.

    Args:
        output: the run folder, where latents go that `config` names no place for.
        num_classes: of the model, if labels are to be checked against it.

    Raises:
        DataError: for images or latents that cannot be used, and labels that the model has no class for.
    """
    source = open_images(config.folder, config.split, config.image_size, config.image_channels)
    tokenizer = tokenizer_for_training(config.tokenizer, source)
    path = Path(config.latents) if config.latents else output / "latents.safetensors"
    classes = int(source.labels.max()) + 1
    if num_classes is not None and classes > num_classes:
        raise DataError(f"num_classes: expected at least {classes} for {config.folder}, got {num_classes}")
    return cached_latents(path, source, f"{Path(config.folder).name}/{config.split}", tokenizer), tokenizer
