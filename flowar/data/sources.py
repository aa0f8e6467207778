"""Images with labels, from the files people have: Fashion-MNIST's (idx), a folder a class, or WebDataset tars."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flowar.config import Grid, as_grid
from flowar.data.class_names import read_class_names
from flowar.data.image_source import IMAGE_SUFFIXES, ImageSource
from flowar.data.transforms import decode
from flowar.data.webdataset import find_tars, open_tars
from flowar.errors import DataError, first_line


@dataclass
class IdxImages(ImageSource):
    """Images of an idx file pair, all in memory: uint8 [N, 1, height, width]."""

    images: Tensor
    flips: ClassVar[bool] = False  # digits and shoes have a side

    def name(self, index: int) -> str:
        return f"image {index}"

    def _read(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index, 0].numpy())

    def batches(self, size: int, skipped: list[str] | None = None) -> Iterator[Tensor]:
        yield from self.images.split(size)

    def fingerprint(self) -> str:
        """As the base class has it, and of the pixels."""
        return f"{super().fingerprint()}-{zlib.crc32(self.images.numpy().data):08x}"


@dataclass
class FolderImages(ImageSource):
    """Image files; their names are paths below `root`."""

    names: list[str]

    def name(self, index: int) -> str:
        return self.names[index]

    def _read(self, index: int) -> Image.Image:
        return decode((self.root / self.names[index]).read_bytes(), self.channels)


def open_images(
    folder: str | Path, split: str = "train", image_size: int | Sequence[int] = 256, channels: int = 3
) -> ImageSource:
    """The labelled images of `folder`.

    Args:
        folder: with idx files, tars, or one subfolder a class; a tar; or tars by pattern, as `shards/{0000..0009}.tar`.
        split: of idx files, "train" or "t10k".
        image_size: of what is cut from files of images, a side or (height, width); idx files have their own.
        channels: of files of images, 1 or 3; idx files are grey.

    Raises:
        DataError: for a missing folder or file, and for one that holds none of these or is damaged.
    """
    size, tars = as_grid("image_size", image_size), find_tars(folder)
    if tars:
        return open_tars(tars, size, channels)
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"data: expected a folder, got {folder} (does not exist)")
    if any(folder.glob("*-images-idx3-ubyte*")):
        return open_idx(folder, split)
    return open_class_folders(folder, size, channels)


def open_idx(folder: Path, split: str) -> IdxImages:
    """The `split` ("train" or "t10k") of the four files of Fashion-MNIST or MNIST, gzipped or not."""
    images = read_idx(find_idx(folder, f"{split}-images-idx3-ubyte"), 3)
    labels = read_idx(find_idx(folder, f"{split}-labels-idx1-ubyte"), 1)
    if len(images) != len(labels) or not len(images):
        raise DataError(f"{folder}: expected images, and as many labels, got {len(images)} and {len(labels)}")
    height, width = images.shape[1:]
    return IdxImages(folder, labels.long(), read_class_names("fashion_mnist"), (height, width), 1, images[:, None])


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


def open_class_folders(folder: Path, image_size: Grid, channels: int) -> FolderImages:
    """One subfolder a class, classes in alphabetical order."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    names: list[str] = []
    labels: list[int] = []
    for label, directory in enumerate(classes):
        found = sorted(path for path in directory.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise DataError(f"{directory}: expected images in every class folder, found none")
        names += [str(path.relative_to(folder)) for path in found]
        labels += [label] * len(found)
    if not names:
        expected = "Fashion-MNIST's idx files, tars, or a subfolder of images a class"
        raise DataError(f"{folder}: expected {expected}, found none of them")
    class_names = tuple(path.name for path in classes)
    return FolderImages(folder, torch.tensor(labels), class_names, image_size, channels, names)
