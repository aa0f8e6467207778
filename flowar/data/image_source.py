"""What every source of training images has in common."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from flowar.config import Grid
from flowar.data.transforms import variants
from flowar.errors import DataError, first_line


class FilePart(NamedTuple):
    """The bytes of an image: in a file, from `offset` on, `size` of them, or all."""

    file: Path
    offset: int = 0
    size: int | None = None


@dataclass
class ImageSource(ABC):
    """Labelled images, read one at a time; several processes may hold copies.

    A subclass implements `name` and `_read`.

    Attributes:
        root: the folder that names are relative to.
        labels: int64 [N].
        class_names: by label; empty where nothing says them.
        image_size: height and width of what `batches` cuts.
        channels: 1 for grey, 3 for RGB.
        flips: whether a mirrored image is as good as the image.
    """

    root: Path
    labels: Tensor
    class_names: tuple[str, ...]
    image_size: Grid
    channels: int
    flips: ClassVar[bool] = True

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def name(self, index: int) -> str:
        """What image number `index` is called, relative to `root`."""

    @abstractmethod
    def _read(self, index: int, cover: Grid | None) -> Image.Image:
        """As `read`, but may raise anything."""

    def part(self, index: int) -> FilePart | None:
        """The bytes of image number `index`; None where `fingerprint` depends on its pixels."""
        return None

    def read(self, index: int, cover: Grid | None = None) -> Image.Image:
        """Image number `index`, upright, in mode L or RGB, of any size.

        Args:
            cover: height and width that are to be cut from it; a large image may then come smaller than it is.

        Raises:
            DataError: if it is unreadable, naming it.
        """
        with self._naming(index):
            return self._read(index, cover)

    def cut(self, index: int, flips: bool = False, crops: int = 0) -> Tensor:
        """What `variants` makes of image number `index`: uint8 [V, channels, H, W].

        Raises:
            DataError: if anything from its file to the tensor fails, naming it.
        """
        with self._naming(index):
            return variants(self._read(index, self.image_size), self.image_size, flips, crops, index)

    @contextmanager
    def _naming(self, index: int) -> Iterator[None]:
        try:
            yield
        except DataError:
            raise
        except Exception as error:  # damaged files make Pillow fail in many ways
            name = self.root / self.name(index)
            raise DataError(f"{name}: expected a readable image ({first_line(error)})") from error

    def batches(self, size: int, skipped: list[str] | None = None) -> Iterator[Tensor]:
        """All images in order, as uint8 [<= size, channels, H, W].

        Args:
            skipped: gets what is wrong with each unreadable image, which is then left out.

        Raises:
            DataError: for an unreadable image, without `skipped`.
        """
        for part in torch.arange(len(self)).split(size):
            images = []
            for index in part.tolist():
                try:
                    images.append(self.cut(index)[0])
                except DataError as error:
                    if skipped is None:
                        raise
                    skipped.append(str(error))
            if images:
                yield torch.stack(images)

    def fingerprint(self) -> str:
        """16 hex digits that change with the names, the labels and their order."""
        digest = hashlib.sha256()
        for index, label in enumerate(self.labels.tolist()):
            digest.update(f"{self.name(index)}\0{label}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]
