"""`flowar train-tokenizer`: a small autoencoder, trained on your images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flowar.training.tokenizer_training import TokenizerTrainingConfig, train_tokenizer

READ_BATCH = 256


@dataclass
class Options:
    """Train a small tokenizer on a folder of images.

    Attributes:
        data: one subfolder of images a class, Fashion-MNIST's idx files, or WebDataset tars (a folder or a pattern).
        output: folder to write the tokenizer to.
        image_size: images are scaled and cropped to this, a side or [height, width]; those of idx files stay as they
            are.
        image_channels: 1 for grey, 3 for RGB; idx files are grey.
        split: of idx files.
        device: "auto" is the GPU if there is one.
        training: see `TokenizerTrainingConfig`.
    """

    data: str
    output: Path
    image_size: int | Sequence[int] = 32
    image_channels: int = 3
    split: str = "train"
    device: str = "auto"
    training: TokenizerTrainingConfig = field(default_factory=TokenizerTrainingConfig)


def run(options: Options) -> None:
    """Train, write the tokenizer folder and say where it is."""
    import torch

    from flowar.precision import default_device
    from flowar.training.data import open_images

    source = open_images(options.data, options.split, options.image_size, options.image_channels)
    images = torch.cat([*source.batches(READ_BATCH)])
    tokenizer = train_tokenizer(images, options.training, default_device(options.device))
    tokenizer.save_pretrained(options.output)
    print(f"tokenizer {tokenizer.record()['weights']} in {options.output}")
