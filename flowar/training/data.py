"""Images with labels, from the files people have: a folder a class, or the four Fashion-MNIST (idx) files."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flowar.errors import DataError, first_line

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


class ImageSource(Protocol):
    """Labelled images of one size."""

    labels: Tensor
    class_names: tuple[str, ...]

    def batches(self, size: int) -> Iterator[Tensor]:
        """All images in order, as uint8 [<= size, channels, H, W]."""


@dataclass
class IdxImages:
    """Images of an idx file pair, all in memory: uint8 [N, 1, H, W]."""

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]

    def batches(self, size: int) -> Iterator[Tensor]:
        yield from self.images.split(size)


@dataclass
class FolderImages:
    """Image files, read when asked for, scaled and cropped to a square."""

    paths: list[Path]
    labels: Tensor
    class_names: tuple[str, ...]
    image_size: int
    channels: int

    def batches(self, size: int) -> Iterator[Tensor]:
        for start in range(0, len(self.paths), size):
            part = self.paths[start : start + size]
            yield torch.stack([read_image(path, self.image_size, self.channels) for path in part])


def open_images(folder: str | Path, split: str = "train", image_size: int = 256, channels: int = 3) -> ImageSource:
    """The labelled images of `folder`: idx files (`split` "train" or "t10k"), else one subfolder a class.

    Raises:
        DataError: for a missing folder, or one that holds neither.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"data: expected a folder, got {folder} (does not exist)")
    if any(folder.glob("*-images-idx3-ubyte*")):
        return open_idx(folder, split)
    return open_class_folders(folder, image_size, channels)


def open_idx(folder: Path, split: str) -> IdxImages:
    """The `split` ("train" or "t10k") of the four files of Fashion-MNIST or MNIST, gzipped or not."""
    images = read_idx(find_idx(folder, f"{split}-images-idx3-ubyte"), 3)
    labels = read_idx(find_idx(folder, f"{split}-labels-idx1-ubyte"), 1)
    if len(images) != len(labels) or not len(images):
        raise DataError(f"{folder}: expected images, and as many labels, got {len(images)} and {len(labels)}")
    return IdxImages(images[:, None], labels.long(), FASHION_CLASSES)


def find_idx(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise DataError(f"{folder}: expected {name}.gz or {name}, found neither")


def read_idx(path: Path, dimensions: int) -> Tensor:
    """An unsigned-byte idx file as a uint8 tensor."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: expected an idx file, but reading it failed ({first_line(error)})") from error
    header = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) < header:
        raise DataError(f"{path}: expected an idx file of {dimensions} dimensions, got header {content[:header].hex()}")
    shape = np.frombuffer(content, ">i4", dimensions, offset=4).astype(int)
    size = int(shape.prod())
    if len(content) != header + size:
        raise DataError(f"{path}: expected {header + size} bytes for shape {shape.tolist()}, got {len(content)}")
    return torch.from_numpy(np.frombuffer(content, np.uint8, size, offset=header).reshape(shape).copy())


def open_class_folders(folder: Path, image_size: int, channels: int) -> FolderImages:
    """One subfolder a class, classes in alphabetical order."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    paths: list[Path] = []
    labels: list[int] = []
    for label, directory in enumerate(classes):
        found = sorted(path for path in directory.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise DataError(f"{directory}: expected images in every class folder, found none")
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise DataError(f"{folder}: expected Fashion-MNIST's idx files or a subfolder of images a class, found neither")
    return FolderImages(paths, torch.tensor(labels), tuple(path.name for path in classes), image_size, channels)


def read_image(path: Path, size: int, channels: int) -> Tensor:
    """One image as uint8 [channels, size, size]: the short side scaled to `size`, the centre cropped."""
    try:
        with Image.open(path) as file:
            image = file.convert("L" if channels == 1 else "RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: expected a readable image ({first_line(error)})") from error
    factor = size / min(image.size)
    width, height = (max(size, round(side * factor)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BOX if factor < 0.5 else Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    pixels = np.asarray(image.crop((left, top, left + size, top + size)))
    return torch.from_numpy(pixels.reshape(size, size, channels).copy()).permute(2, 0, 1)


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 pixels to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1
