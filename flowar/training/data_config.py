"""The configuration of the data that a run trains on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from flowar.config import as_grid, require
from flowar.errors import DataError
from flowar.system.fields import checks_fields
from flowar.system.rules import Channels, Count, Place, Range, Side

PATTERN = re.compile(r"[{*?\[]")  # of tars


@dataclass
@checks_fields
class DataConfig:
    """The images to train on, their tokenizer, and the store of their latents.

    Images are encoded once. A store that exists already is used if it was made in the same way or, without `folder` and
    `tokenizer`, in any way.

    Raises:
        ValueError: for a value that no data can have, naming the field, what was expected and what came.

    Attributes:
        folder: folder with a subfolder of images per class, with images of one class, with Fashion-MNIST's idx files or
            with WebDataset tars; or a pattern of tars such as shards/{0000..0009}.tar.
        tokenizer: folder of a saved tokenizer, "pixel:STRIDE", or a diffusers autoencoder (folder or Hub id).
        split: split of idx files, "train" or "t10k".
        image_size: size that images are scaled and cropped to, the side of a square or [height, width]; those of idx
            files stay as they are.
        image_channels: 1 for grey, 3 for RGB; idx files are grey.
        latents: folder of the latent store; `latents` in the run folder if left out.
        flips: whether to store the flipped images too; if left out, all but those of idx files are.
        crops: number of random crops of every image to store too.
        on_bad_image: "fail" to end at an unreadable image, or one of a tar without a label, or "skip" to go on without
            it.
        dtype: dtype of the stored latents; float16 takes half the space and rounds them by less than 0.05 %.
        shard_size: images per file of the store.
        encode_batch: images that are encoded at once.
        workers: processes that encode.
        device: device to encode on; "auto" is the GPU if there is one.
    """

    folder: Place | None = None
    tokenizer: Place | None = None
    split: str = "train"
    image_size: Side | Sequence[Side] = 256
    image_channels: Channels = 3
    latents: Place | None = None
    flips: bool | None = None
    crops: Annotated[int, Range(0, 10_000)] = 0
    on_bad_image: Literal["fail", "skip"] = "fail"
    dtype: Literal["float32", "float16"] = "float32"
    shard_size: Count = 1024
    encode_batch: Count = 64
    workers: Annotated[int, Range(1, 1024)] = 1
    device: str = "auto"

    def __post_init__(self) -> None:
        require("data", "folder or latents", "neither", bool(self.folder or self.latents))
        if self.folder and not self.tokenizer and not PATTERN.search(self.folder) and not Path(self.folder).exists():
            raise DataError(f"data: expected a folder, got {self.folder} (does not exist)")
        require("tokenizer", "one for the images of folder", self.tokenizer, bool(self.tokenizer or not self.folder))
        as_grid("image_size", self.image_size)
