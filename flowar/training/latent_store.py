"""Stores of the latents of a whole data set, in files that are mapped to memory.

A store is a folder:

    tokenizer/                  the tokenizer that made it, as `Tokenizer.save_pretrained` writes it
    shard_00000.safetensors     moments [n, variants, 1 or 2, c, h, w], labels [n] int64, the key of the store, and
                                pictures [n + skipped, 3] int64, see `pictures.py`
    store.json                  written last: its presence means that the store is complete

The moments of an image are the mean and the standard deviation of its posterior, or the mean alone if the standard
deviation is always 0. The moments of a variant lie together, so that a training step reads one run of bytes per image.
`encoding.py` writes stores.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from flowar.data.image_source import ImageSource
from flowar.errors import CheckpointError, DataError, FlowARError, shown
from flowar.storage.checksums import read_sealed, write_sealed
from flowar.storage.weights import map_safetensors, metadata_record, save_tensors
from flowar.system.rules import Count, Index, Name
from flowar.system.structured import as_record
from flowar.tokenizers.base import Tokenizer
from flowar.tokenizers.loading import check_tokenizer, load_tokenizer
from flowar.training.draws import Draws, Stream
from flowar.training.pictures import changed

STORE_FILE, TOKENIZER_FOLDER = "store.json", "tokenizer"
FORMAT = 1
REMEDY = f"to mend it, remove {STORE_FILE} and encode again: shards that are whole stay"
MOST_CLASSES = 2**31
VERIFIED_BYTES = 2**31  # larger stores open without a look at their checksums, which takes a second a GiB

Key = Mapping[str, Any]  # plain data that latents depend on, see `encoding.store_key`


class WrittenShard(TypedDict):
    """What `store.json` says of a shard."""

    images: Index
    crc32: str


class StoreRecord(TypedDict):
    """What is read of `store.json`."""

    moments: list[Count]
    class_names: list[Name]
    key: Key
    shards: list[WrittenShard]


class ShardRecord(TypedDict):
    """What is read of the metadata of a shard."""

    key: Key
    first: Index
    skipped: list[str]
    crc32: str


@dataclass
class Shard:
    """A shard: the latents of some images, which one file of a store holds.

    Attributes:
        moments: [n, variants, 1 or 2, c, h, w] float32 or float16, mapped to memory.
        labels: [n] int64.
        key: the key of the store that it belongs to.
        first: the number of its first image in the source.
        skipped: a message for every unreadable image.
        crc32: the checksum when the shard was saved.
        pictures: the stamps of all its images, unreadable ones too; None in older shards.
    """

    moments: Tensor
    labels: Tensor
    key: Key
    first: int
    skipped: list[str]
    crc32: str = ""
    pictures: Tensor | None = None

    @staticmethod
    def open(path: Path) -> Shard:
        """Open the shard in a file.

        Raises:
            DataError: if it is missing, truncated, or no shard.
        """
        try:
            about, tensors = metadata_record(path, "shard", ShardRecord, DataError), map_safetensors(path)
        except CheckpointError as error:
            raise DataError(str(error)) from error
        shapes = {name: f"{tensor.dtype} {list(tensor.shape)}" for name, tensor in tensors.items()}
        moments, labels = (tensors.get(name, torch.empty(0)) for name in ("moments", "labels"))
        floats, integers = moments.is_floating_point(), labels.dtype == torch.int64
        if not (floats and integers and moments.dim() == 6 and labels.shape == moments.shape[:1]):
            raise DataError(f"{path}: expected a shard of latents, moments of 6 dimensions and labels, got {shapes}")
        pictures, count = tensors.get("pictures"), len(labels) + len(about["skipped"])
        if pictures is not None and (pictures.dtype != torch.int64 or pictures.shape != (count, 3)):
            raise DataError(f"{path}: expected pictures [{count}, 3] of torch.int64, got {shapes['pictures']}")
        return Shard(moments, labels, about["key"], about["first"], about["skipped"], about["crc32"], pictures)

    def save(self, path: Path) -> None:
        """Write the shard with its checksum, aside first.

        Raises:
            OSError: if writing fails.
        """
        about = {"key": self.key, "first": self.first, "skipped": self.skipped, "crc32": self.checksum()}
        tensors = {"moments": self.moments, "labels": self.labels}
        if self.pictures is not None:
            tensors["pictures"] = self.pictures
        save_tensors(path, tensors, {"shard": json.dumps(about)})

    def changed(self, source: ImageSource) -> list[int]:
        """The numbers of those images that are not in `source` what they were when the shard was written."""
        if self.pictures is None:
            return []
        return changed(source, range(self.first, self.first + len(self.pictures)), self.pictures)

    def checksum(self) -> str:
        """The CRC-32 of moments and labels, which is eight times as fast as SHA-256; nobody forges latents."""
        crc = 0
        for tensor in (self.moments, self.labels):
            crc = zlib.crc32(tensor.contiguous().flatten().view(torch.uint8).numpy().data, crc)
        return f"{crc:08x}"


@dataclass
class LatentStore:
    """A complete store, open for training.

    Attributes:
        folder: the folder that it is in.
        key: plain data that its latents depend on, see `encoding.store_key`.
        class_names: the names of the classes by label; empty if they are unknown.
        shards: all shards, mapped to memory.
        labels: [N] int64.
    """

    folder: Path
    key: Key
    class_names: tuple[str, ...]
    shards: list[Shard]
    labels: Tensor

    def __post_init__(self) -> None:
        self._ends = torch.tensor([len(shard.labels) for shard in self.shards]).cumsum(0)

    @staticmethod
    def complete(folder: Path) -> bool:
        """Whether there is a complete store in `folder`."""
        return (folder / STORE_FILE).is_file()

    @staticmethod
    def open(folder: Path, verify: bool | None = None) -> LatentStore:
        """Open the complete store in `folder`, after checking that its files are there, whole and of one kind.

        Args:
            verify: whether to compare the checksums of all shards; if left out, that is done below 2 GiB.

        Raises:
            DataError: if there is no complete store, or something in it is damaged, naming the file.
        """
        if not LatentStore.complete(folder):
            raise DataError(f"latents: expected a complete store, found no {STORE_FILE} in {folder}")
        record = read_record(folder)
        shards = [Shard.open(shard_path(folder, number)) for number in range(len(record["shards"]))]
        if not shards:
            raise DataError(f"{folder / STORE_FILE}: expected shards, got none; {REMEDY}")
        store = LatentStore(
            folder, record["key"], tuple(record["class_names"]), shards, torch.cat([shard.labels for shard in shards])
        )
        for number, written in enumerate(record["shards"]):
            check_shard(shard_path(folder, number), shards[number], written, record)
        check_labels(folder, store)
        if verify is None:
            verify = store.nbytes < VERIFIED_BYTES
        if verify:
            store.verify()
        return store

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def variants(self) -> int:
        """The number of encodings of every image: as it is, flipped, cropped."""
        return self.shards[0].moments.shape[1]

    @property
    def channels(self) -> int:
        return self.shards[0].moments.shape[3]

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the latents."""
        height, width = self.shards[0].moments.shape[4:]
        return height, width

    @property
    def skipped(self) -> list[str]:
        """A message for every image that is missing because it could not be read."""
        return [reason for shard in self.shards for reason in shard.skipped]

    @property
    def nbytes(self) -> int:
        return sum(shard.moments.nbytes for shard in self.shards)

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer that made the store."""
        return load_tokenizer(self.folder / TOKENIZER_FOLDER)

    def batch(self, indices: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Latents [B, c, h, w] float32 and labels [B] int64 of images `indices` [B], on the device of `draws`.

        The draws choose the variant of an image and the sample of its posterior.

        Raises:
            DataError: for latents that are not finite, naming the shard and the image's place in it.
        """
        variants = (draws.to("cpu").uniform(Stream.VARIANT) * self.variants).long()
        shards = torch.bucketize(indices, self._ends, right=True)
        places = indices - torch.cat([torch.zeros(1, dtype=torch.int64), self._ends])[shards]
        found = zip(shards.tolist(), places.tolist(), variants.tolist(), strict=True)
        moments = torch.stack([self.shards[shard].moments[place, variant] for shard, place, variant in found]).float()
        if not moments.sum().isfinite():
            self._refuse(moments, shards, places)
        device = draws.seeds.device
        mean, *std = moments.to(device).unbind(1)
        if std:
            mean = mean + std[0] * draws.normal(Stream.POSTERIOR, mean.shape[1:])
        return mean, self.labels[indices].to(device)

    def verify(self) -> None:
        """Compare the checksums of all shards, which takes a second per GiB.

        Raises:
            DataError: naming the first shard that is damaged.
        """
        for number, shard in enumerate(self.shards):
            found = shard.checksum()
            if found != shard.crc32:
                path = shard_path(self.folder, number)
                raise DataError(f"{path}: expected checksum {shard.crc32}, got {found}; {REMEDY}")

    def _refuse(self, moments: Tensor, shards: Tensor, places: Tensor) -> None:
        """Raise an error that names the first image of a batch whose moments [B, 1 or 2, c, h, w] are not finite."""
        for values, shard, place in zip(moments, shards.tolist(), places.tolist(), strict=True):
            if not values.isfinite().all():
                path = shard_path(self.folder, shard)
                raise DataError(f"{path}: expected finite latents, got others in image {place} of the shard; {REMEDY}")


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard_{number:05d}.safetensors"


def write_record(folder: Path, shards: int, key: Key, source: str, class_names: Sequence[str]) -> None:
    """Write `store.json` beside its `shards`, which completes the store.

    Raises:
        DataError: if no image was readable.
        OSError: if writing fails.
    """
    written = [Shard.open(shard_path(folder, number)) for number in range(shards)]
    images = sum(len(shard.labels) for shard in written)
    skipped = [reason for shard in written for reason in shard.skipped]
    if not images:
        raise DataError(f"{folder}: expected a readable image, found none; {skipped[0]}")
    record = {
        "format": FORMAT,
        "images": images,
        "moments": list(written[0].moments.shape[1:]),
        "source": source,
        "class_names": list(class_names),
        "key": dict(key),
        "skipped": skipped,
        "shards": [{"images": len(shard.labels), "crc32": shard.crc32} for shard in written],
    }
    write_sealed(folder / STORE_FILE, record)


def read_record(folder: Path) -> StoreRecord:
    """Read the `store.json` that `write_record` wrote.

    Raises:
        DataError: if it is damaged, or of another version of this package.
    """
    path = folder / STORE_FILE
    try:
        record = read_sealed(path)
    except CheckpointError as error:
        raise DataError(str(error)) from error
    if record.get("format") != FORMAT:
        raise DataError(f"{path}: expected a latent store of format {FORMAT}, got {shown(record.get('format'))}")
    return as_record(record, StoreRecord, str(path), DataError)


def check_shard(path: Path, shard: Shard, written: WrittenShard, record: StoreRecord) -> None:
    """Check that a shard is the one that the entry `written` of the store's `record` describes.

    Raises:
        DataError: naming the first difference.
    """
    expected: dict[str, Any] = {"moments": record["moments"], "key": record["key"], **written}
    found = {
        "moments": list(shard.moments.shape[1:]),
        "key": shard.key,
        "images": len(shard.labels),
        "crc32": shard.crc32,
    }
    for name, value in found.items():
        if expected.get(name) != value:
            raise DataError(f"{path}: expected {name} {expected.get(name)}, got {value}; {REMEDY}")


def check_labels(folder: Path, store: LatentStore) -> None:
    """Check that the labels of a store are numbers of its classes. Raises DataError."""
    low, high = (int(edge) for edge in torch.aminmax(store.labels))
    classes = len(store.class_names) or MOST_CLASSES
    if not 0 <= low <= high < classes:
        got = f"some from {low} to {high}"
        raise DataError(f"{folder}: expected labels from 0 to {classes - 1}, got {got}; {REMEDY}")


def check_key(where: Path, found: Key, expected: Key, tokenizer: Tokenizer) -> None:
    """Check that the latents at `where` are of the images that are expected, encoded as expected by `tokenizer`.

    Raises:
        DataError: naming the first difference and both sides.
    """
    for name, value in expected.items():
        if name != "tokenizer" and found.get(name) != value:
            got = f"got {found.get(name)}; remove them or name another folder"
            raise DataError(f"{where}: expected latents of {name} {value}, {got}")
    if found.get("tokenizer") != expected["tokenizer"]:  # else there is no need for its fingerprint once more
        check_maker(where, found, tokenizer)


def check_maker(where: Path, found: Key, tokenizer: Tokenizer) -> None:
    """Check that the latents at `where` were made by `tokenizer`.

    Raises:
        DataError: naming the first difference and both sides.
    """
    try:
        check_tokenizer(found["tokenizer"], tokenizer)
    except FlowARError as error:
        raise DataError(f"{where}: made by another tokenizer; {error}") from error
