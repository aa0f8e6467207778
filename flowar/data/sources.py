"""Images with labels, from the files people have: Fashion-MNIST's (idx), a folder a class, or WebDataset tars."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flowar.config import Grid, as_grid
from flowar.data.class_folders import class_folders, images_of_folders
from flowar.data.class_names import names_of_folders, read_class_names
from flowar.data.folders import Ignored, look_into
from flowar.data.image_source import FilePart, ImageSource
from flowar.data.opening import open_image
from flowar.data.webdataset import find_tars, open_tars
from flowar.errors import DataError, first_line
from flowar.system.files import open_regular
from flowar.system.memory import check_memory
from flowar.system.rules import MOST_SIDE, expanded

PIXEL_BYTES = 4  # of a picture while it is opened
READ_BYTES = 2**24  # of an idx file, at once


@dataclass
class IdxImages(ImageSource):
    """Images of an idx file pair, all in memory: uint8 [N, 1, height, width]."""

    images: Tensor
    flips: ClassVar[bool] = False  # digits and shoes have a side

    def name(self, index: int) -> str:
        return f"image {index}"

    def _read(self, index: int, cover: Grid | None) -> Image.Image:
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

    def _read(self, index: int, cover: Grid | None) -> Image.Image:
        return open_image(self.root / self.names[index], self.channels, cover)

    def part(self, index: int) -> FilePart:
        return FilePart(self.root / self.names[index])


def open_images(
    folder: str | Path,
    split: str = "train",
    image_size: int | Sequence[int] = 256,
    channels: int = 3,
    skip_bad: bool = False,
) -> ImageSource:
    """The labelled images of `folder`. What is ignored there, such as hidden files, is counted and logged.

    Args:
        folder: with idx files, tars, or one subfolder a class; a tar; or tars by pattern, as `shards/{0000..0009}.tar`.
            A folder of images without subfolders of them is one class.
        split: of idx files, "train" or "t10k".
        image_size: of what is cut from files of images, a side or (height, width); idx files have their own.
        channels: of files of images, 1 or 3; idx files are grey.
        skip_bad: let images of tars without a proper label be unreadable, instead of refusing them here.

    Raises:
        DataError: for a missing folder or file, and for one that holds none of these, more than one or is damaged.
    """
    size = as_grid("image_size", image_size)
    check_memory("image_size", f"an image of {size[1]}x{size[0]}", PIXEL_BYTES * math.prod(size))
    folder, ignored = expanded(folder), Ignored()
    if not folder.is_dir():
        tars = find_tars(str(folder))
        if not tars:
            raise DataError(
                f"data: expected a folder, got {folder} ({'a file' if folder.exists() else 'does not exist'})"
            )
        return open_tars(tars, size, channels, skip_bad, ignored)
    contents = look_into(folder, ignored)
    if any("-images-idx3-ubyte" in path.name for path in contents.others):
        return open_idx(folder, split)
    tars = [path for path in contents.others if path.suffix.lower() == ".tar"]
    if not tars:
        return open_class_folders(folder, size, channels)
    if any(images_of_folders(folder, contents.folders, Ignored()).values()):
        raise DataError(f"{folder}: expected tars or one folder a class, got both; {folder}/*.tar names the tars alone")
    ignored.add("images beside the tars", len(contents.images))
    return open_tars(tars, size, channels, skip_bad, ignored)


def open_idx(folder: Path, split: str) -> IdxImages:
    """The `split` ("train" or "t10k") of the four files of Fashion-MNIST or MNIST, gzipped or not."""
    images = read_idx(find_idx(folder, f"{split}-images-idx3-ubyte"), 3)
    labels = read_idx(find_idx(folder, f"{split}-labels-idx1-ubyte"), 1)
    if len(images) != len(labels) or not len(images):
        raise DataError(f"{folder}: expected images, and as many labels, got {len(images)} and {len(labels)}")
    height, width = images.shape[1:]
    names = read_class_names("fashion_mnist")
    names = names if int(labels.max()) < len(names) else ()  # as those of EMNIST, which has letters
    return IdxImages(folder, labels.long(), names, (height, width), 1, images[:, None])


def find_idx(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise DataError(f"{folder}: expected {name}.gz or {name}, found neither")


def read_idx(path: Path, dimensions: int) -> Tensor:
    """An unsigned-byte idx file as a uint8 tensor.

    Raises:
        DataError: for a file that is missing, damaged or something else, or has more than fits into the memory.
    """
    try:
        with open_regular(path) as file:
            if path.suffix == ".gz":
                with gzip.GzipFile(fileobj=file) as unpacked:
                    return idx_array(path, unpacked, dimensions)
            return idx_array(path, file, dimensions)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: expected an idx file, but reading it failed ({first_line(error)})") from error


def idx_array(path: Path, file: BinaryIO | gzip.GzipFile, dimensions: int) -> Tensor:
    """The array of an open idx file; of a longer file, or one that claims to be, no more is read than that shows it."""
    header = file.read(4 + 4 * dimensions)
    if header[:4] != bytes([0, 0, 8, dimensions]) or len(header) < 4 + 4 * dimensions:
        raise DataError(f"{path}: expected an idx file of {dimensions} dimensions, got header {header.hex()}")
    shape = np.frombuffer(header, ">u4", dimensions, offset=4).tolist()
    if not all(1 <= side <= MOST_SIDE for side in shape[1:]):
        raise DataError(f"{path}: expected images of 1 to {MOST_SIDE} pixels a side, got shape {shape}")
    size = math.prod(shape)
    check_memory(str(path), f"images {shape}", 2 * size)
    content = bytearray()
    while len(content) <= size and (part := file.read(min(READ_BYTES, size + 1 - len(content)))):
        content += part
    if len(content) != size:
        got = "more" if len(content) > size else len(header) + len(content)
        raise DataError(f"{path}: expected {len(header) + size} bytes for shape {shape}, got {got}")
    return torch.from_numpy(np.frombuffer(content, np.uint8).reshape(shape))


def open_class_folders(root: Path, image_size: Grid, channels: int) -> FolderImages:
    """One subfolder a class, classes in alphabetical order; or one class, if the images lie in `root` itself."""
    ignored = Ignored()
    classes = class_folders(root, ignored)
    if not classes:
        expected = "Fashion-MNIST's idx files, tars, or a subfolder of images a class"
        raise DataError(f"{root}: expected {expected}, found none of them{f' ({ignored})' if str(ignored) else ''}")
    class_names = names_of_folders([folder.resolve().name if folder == root else folder.name for folder in classes])
    names = [str(path.relative_to(root)) for images in classes.values() for path in images]
    labels = [label for label, images in enumerate(classes.values()) for _ in images]
    how = "one class, as no folder in it has images" if root in classes else f"{len(classes)} classes"
    ignored.say(f"{root}: {len(names)} images, {how}")
    return FolderImages(root, torch.tensor(labels), class_names, image_size, channels, names)
