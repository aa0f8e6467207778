"""What a run trains on, as a dataclass."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class DataConfig:
    """What to train on.

    Attributes:
        folder: Fashion-MNIST's idx files, or one subfolder of images a class.
        split: of idx files, "train" or "t10k".
        tokenizer: folder of a saved tokenizer, "pixel:STRIDE", or a diffusers autoencoder (folder or Hub id).
        image_size: images of a folder are scaled and cropped to a square of this side.
        image_channels: 1 for grey, 3 for RGB; of images in a folder.
        latents: file that caches the latents; `latents.safetensors` in the run folder if left out.
    """

    folder: str
    tokenizer: str
    split: str = "train"
    image_size: int = 256
    image_channels: int = 3
    latents: str | None = None
