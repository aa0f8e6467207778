"""What a run trains on, as a dataclass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from flowar.config import as_grid, is_count, require


@dataclass
class DataConfig:
    """Images, their tokenizer, and the store of their latents.

    Images are encoded once. A store that is there already is used if it was made in the same way; without `folder`
    and `tokenizer`, whatever way that was.

    Raises:
        ValueError: for a value that no data can have, naming the field, what was expected and what came.

    Attributes:
        folder: one subfolder of images a class, images of one class, Fashion-MNIST's idx files, a folder of WebDataset
            tars, or tars by pattern, as in shards/{0000..0009}.tar.
        tokenizer: folder of a saved tokenizer, "pixel:STRIDE", or a diffusers autoencoder (folder or Hub id).
        split: of idx files, "train" or "t10k".
        image_size: images are scaled and cropped to this: the side of a square, or [height, width]; those of idx files
            stay as they are.
        image_channels: 1 for grey, 3 for RGB; idx files are grey.
        latents: folder of the latent store; `latents` in the run folder if left out.
        flips: whether to store the flipped images too; if left out, unless they come from idx files.
        crops: how many random crops of every image to store too.
        on_bad_image: what an unreadable image, or one of a tar without a label, does to encoding: "fail", or "skip" to
            go on without it.
        dtype: of the stored latents; float16 takes half the space and rounds them by less than 0.05 %.
        shard_size: images of a file of the store.
        encode_batch: images that are encoded at once.
        workers: processes that encode.
        device: to encode on; "auto" is the GPU if there is one.
    """

    folder: str | None = None
    tokenizer: str | None = None
    split: str = "train"
    image_size: int | Sequence[int] = 256
    image_channels: int = 3
    latents: str | None = None
    flips: bool | None = None
    crops: int = 0
    on_bad_image: Literal["fail", "skip"] = "fail"
    dtype: Literal["float32", "float16"] = "float32"
    shard_size: int = 1024
    encode_batch: int = 64
    workers: int = 1
    device: str = "auto"

    def __post_init__(self) -> None:
        require("data", "folder or latents", "neither", bool(self.folder or self.latents))
        require("tokenizer", "one for the images of folder", self.tokenizer, bool(self.tokenizer or not self.folder))
        as_grid("image_size", self.image_size)
        for name in ("shard_size", "encode_batch", "workers"):
            require(name, "a positive integer", getattr(self, name), is_count(getattr(self, name)))
        require("image_channels", "1 or 3", self.image_channels, self.image_channels in (1, 3))
        require("crops", "an integer >= 0", self.crops, self.crops >= 0)
        for name, choices in (("on_bad_image", ("fail", "skip")), ("dtype", ("float32", "float16"))):
            require(name, " or ".join(choices), getattr(self, name), getattr(self, name) in choices)
