"""`flowar calibrate-tokenizer`: per-channel statistics of a tokenizer's latents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flowar.commands import say
from flowar.system.fields import checks_fields
from flowar.system.rules import Channels, Count, Place, Side

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
@checks_fields
class Options:
    """Measure mean and standard deviation of a tokenizer's latents, per channel, and save the normalised tokenizer.

    Attributes:
        tokenizer: folder of a tokenizer, "pixel:STRIDE", or a diffusers autoencoder (folder or Hub id).
        data: folder with a subfolder of images per class or Fashion-MNIST's idx files, or WebDataset tars (a folder or
            a pattern).
        output: folder to write the calibrated tokenizer to.
        image_size: size that images are scaled and cropped to, a side or [height, width]; those of idx files stay as
            they are.
        image_channels: 1 for grey, 3 for RGB; idx files are grey.
        split: split of idx files, "train" or "t10k".
        max_images: largest number of images to measure; the first ones in order.
    """

    tokenizer: Place
    data: Place
    output: Path
    image_size: Side | Sequence[Side] = 256
    image_channels: Channels = 3
    split: str = "train"
    max_images: Count = 50_000


def run(options: Options) -> None:
    """Measure the latents, write the tokenizer folder and print the statistics."""
    from flowar.data.sources import open_images
    from flowar.training.calibration import calibrate
    from flowar.training.tokenizers import CALIBRATION_BATCH, tokenizer_for_training

    source = open_images(options.data, options.split, options.image_size, options.image_channels)
    tokenizer = tokenizer_for_training(options.tokenizer, source)
    calibrate(tokenizer, first_images(source.batches(CALIBRATION_BATCH), options.max_images))
    tokenizer.save_pretrained(options.output)
    for name in ("mean", "std"):
        say(f"{name}: {', '.join(f'{value:.4f}' for value in getattr(tokenizer, name).tolist())}")


def first_images(batches: Iterable[Tensor], count: int) -> Iterator[Tensor]:
    """The first `count` images of `batches`, in batches."""
    for images in batches:
        yield images[:count]
        count -= len(images)
        if count <= 0:
            return
