"""Images to evaluate, from files, from an npz, or drawn by a model."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flowar.config import Grid, as_grid
from flowar.data.folders import Ignored, look_into
from flowar.data.image_source import ImageSource
from flowar.data.sources import FolderImages, open_images
from flowar.data.transforms import center_crop, to_tensor
from flowar.errors import DataError
from flowar.evaluation.npz import read_npz
from flowar.pipeline import FlowARPipeline
from flowar.sampling.schedule import Schedule
from flowar.system.files import write_aside
from flowar.system.memory import check_memory

ADM_IMAGES, ADM_LABELS = "arr_0", "arr_1"  # what numpy calls the arrays of ADM's sample batches
MOST_CLASSES = 2**31
LABEL_BYTES = 24  # of an image, while labels are dealt out


class Images(Protocol):
    """Images of one size that are read, or drawn, by index; an index always gives the same image.

    Attributes:
        size: height and width.
        labels: the labels, int64 [N], or None if they are unknown.
        num_classes: the number of classes that labels are from.
    """

    size: tuple[int, int]
    labels: Tensor | None
    num_classes: int

    def __len__(self) -> int: ...

    def read(self, begin: int, end: int) -> Tensor:
        """The images from `begin` to `end`, uint8 [n, 1 or 3, height, width]."""

    def record(self) -> dict[str, Any]:
        """Plain data that identifies the images: those with equal records are equal."""


@dataclass
class GeneratedImages:
    """Images that a pipeline draws: image i has class `classes[i % len(classes)]` and seed `first_seed + i`.

    Attributes:
        folder: the folder that gets every image as a PNG, in a subfolder per class; None writes none.
    """

    pipeline: FlowARPipeline
    count: int
    classes: tuple[int, ...]
    schedule: Schedule
    first_seed: int
    dtype: str
    folder: Path | None = None

    def __post_init__(self) -> None:
        check_memory("num_images", f"the labels of {self.count} images", LABEL_BYTES * self.count)
        width, height = self.pipeline.picture_size
        self.size = height, width
        self.num_classes = self.pipeline.model.config.num_classes
        self.labels: Tensor | None = torch.tensor(self.classes)[torch.arange(self.count) % len(self.classes)]

    def __len__(self) -> int:
        return self.count

    def read(self, begin: int, end: int) -> Tensor:
        labels = [self.classes[index % len(self.classes)] for index in range(begin, end)]
        seeds = range(self.first_seed + begin, self.first_seed + end)
        images = self.pipeline(labels, schedule=self.schedule, seed=[*seeds], dtype=self.dtype, progress=False).images
        if self.folder:
            for index, label, image in zip(range(begin, end), labels, images, strict=True):
                write_png(self.folder / f"{label:04d}" / f"{index:06d}.png", image)
        return torch.stack([to_tensor(image) for image in images])

    def record(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "classes": list(self.classes),
            "labels": "image i has class classes[i % len(classes)]",
            "seeds": [self.first_seed, self.first_seed + self.count - 1],
        }


def write_png(path: Path, image: Image.Image) -> None:
    write_aside(path, lambda aside: image.save(aside, "PNG"))


@dataclass
class StoredImages:
    """Images of a source, all of its size.

    Attributes:
        source: the images.
        name: the name of the source, as the user gave it.
        crop: whether images of another size are scaled and cropped; otherwise they are errors.
    """

    source: ImageSource
    name: str
    crop: bool

    def __post_init__(self) -> None:
        self.size = self.source.image_size
        known = bool((self.source.labels >= 0).all())
        self.labels: Tensor | None = self.source.labels if known else None
        self.num_classes = len(self.source.class_names) or int(self.source.labels.max()) + 1

    def __len__(self) -> int:
        return len(self.source)

    def read(self, begin: int, end: int) -> Tensor:
        return torch.stack([to_tensor(self._cut(index)) for index in range(begin, end)])

    def _cut(self, index: int) -> Image.Image:
        image = self.source.read(index, self.size if self.crop else None)
        if self.crop:
            return center_crop(image, self.size)
        height, width = self.size
        if image.size != (width, height):
            name, got = self.source.root / self.source.name(index), f"{image.width}x{image.height}"
            raise DataError(f"{name}: expected {width}x{height}, got {got} (image_size says what to scale and crop to)")
        return image

    def fingerprint(self) -> str:
        """16 hex digits that change with names, labels, size, and pixels, or the lengths of files of images."""
        digest = hashlib.sha256(f"{self.source.fingerprint()} {self.size} {self.crop}".encode())
        if isinstance(self.source, FolderImages):
            lengths = [(self.source.root / name).stat().st_size for name in self.source.names]
            digest.update(repr(lengths).encode())
        return digest.hexdigest()[:16]

    def record(self) -> dict[str, Any]:
        identity = {"source": self.name, "fingerprint": self.fingerprint()}
        return identity | {"count": len(self), "size": self.size, "cropped": self.crop}


@dataclass
class ArrayImages(ImageSource):
    """Images of an npz in memory, uint8 [N, height, width, channels]."""

    images: np.ndarray[Any, np.dtype[np.uint8]]
    flips: ClassVar[bool] = False

    def name(self, index: int) -> str:
        return f"image {index}"

    def _read(self, index: int, cover: Grid | None) -> Image.Image:
        pixels = self.images[index]
        return Image.fromarray(pixels[..., 0] if self.channels == 1 else pixels)

    def batches(self, size: int, skipped: list[str] | None = None) -> Iterator[Tensor]:
        for begin in range(0, len(self), size):
            yield torch.from_numpy(self.images[begin : begin + size]).movedim(3, 1)

    def fingerprint(self) -> str:
        """The fingerprint of the base class and a checksum of the pixels."""
        return f"{super().fingerprint()}-{zlib.crc32(np.ascontiguousarray(self.images).data):08x}"


def open_stored(
    source: str, channels: int, image_size: int | Sequence[int] | None = None, split: str = "train"
) -> StoredImages:
    """Open the images of an npz, of a folder (flat, or a subfolder per class), of tars, or of Fashion-MNIST's idx
    files.

    Args:
        source: the path of the images.
        channels: the number of channels that files are read in, 1 or 3; idx files have their own, and so has an npz,
            but for grey images in three channels.
        image_size: the size to scale and crop to, a side or (height, width); if left out, all images must have the size
            of the first.
        split: the split of idx files.

    Raises:
        DataError: for a source that is missing, empty or damaged; nothing in an npz is ever unpickled.
    """
    size = None if image_size is None else as_grid("image_size", image_size)
    images = open_source(source, channels, split)
    first = images.read(0)
    images.image_size = size or (first.height, first.width)
    return StoredImages(images, source, crop=size is not None)


def open_source(source: str, channels: int, split: str) -> ImageSource:
    """Open the images of `open_stored`, whose `image_size` is still to be set."""
    if source.endswith(".npz"):
        return npz_images(Path(source), channels)
    folder, ignored = Path(source), Ignored()
    flat = look_into(folder, ignored) if folder.is_dir() else None
    if flat is None or not flat.images:
        return open_images(source, split, channels=channels)
    ignored.add("folders", len(flat.folders))
    ignored.add_files(flat.others)
    ignored.say(f"{folder}: {len(flat.images)} images")
    names = [path.name for path in flat.images]
    return FolderImages(folder, torch.full((len(names),), -1), (), (0, 0), channels, names)


def npz_images(path: Path, channels: int) -> ArrayImages:
    """Read the images of an npz in the format of ADM, uint8 [N, height, width, 1 or 3], and labels if it has some.

    Where one of the `channels` is wanted of grey images that have three, as all in this format have, it is the first.
    """
    arrays = read_npz(path, (ADM_IMAGES, ADM_LABELS))
    images = arrays.get(ADM_IMAGES)
    if (
        images is None
        or images.dtype != np.uint8
        or images.ndim != 4
        or images.shape[3] not in (1, 3)
        or not len(images)
    ):
        got = "nothing" if images is None else f"{images.dtype} {list(images.shape)}"
        raise DataError(f"{path}: expected images uint8 [N, height, width, 1 or 3] as {ADM_IMAGES}, got {got}")
    labels = torch.full((len(images),), -1)
    if ADM_LABELS in arrays:
        labels = torch.from_numpy(integers(path, arrays[ADM_LABELS]))
    if labels.shape != (len(images),):
        raise DataError(f"{path}: expected {len(images)} labels as {ADM_LABELS}, got {list(labels.shape)}")
    if channels == 1 and (images == images[..., :1]).all():
        images = images[..., :1]
    _, height, width, found = images.shape
    return ArrayImages(path, labels, (), (height, width), found, images)


def integers(path: Path, labels: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Labels of any numeric dtype as int64.

    Raises:
        DataError: for what is no number of a class.
    """
    numeric = labels.dtype.kind in "iuf"
    if not numeric or not ((labels >= -1) & (labels < MOST_CLASSES) & (labels == np.floor(labels))).all():
        got = f"{labels.dtype} from {labels.min()} to {labels.max()}" if numeric and labels.size else str(labels.dtype)
        raise DataError(f"{path}: expected integers from -1 to {MOST_CLASSES - 1} as {ADM_LABELS}, got {got}")
    return labels.astype(np.int64)
