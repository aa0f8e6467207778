"""Encoding of images into a latent store, shard by shard and in several processes; it resumes by itself."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from flowar.data.image_source import ImageSource
from flowar.data.transforms import to_unit_range
from flowar.errors import DataError
from flowar.system.parts import remove
from flowar.system.precision import default_device, parse_dtype
from flowar.system.progress import step_progress
from flowar.system.threads import usable_cpus
from flowar.tokenizers.base import Tokenizer
from flowar.tokenizers.loading import load_tokenizer
from flowar.training.calibration import warn_unless_normalised
from flowar.training.data_config import DataConfig
from flowar.training.latent_store import (
    STORE_FILE,
    TOKENIZER_FOLDER,
    Key,
    LatentStore,
    Shard,
    check_key,
    shard_path,
    write_record,
)
from flowar.training.pictures import stamps
from flowar.training.room import check_encoding

log = logging.getLogger(__name__)

SAMPLED_IMAGES = 1024  # whose latents tell whether they are normalised


def encode(folder: Path, source: ImageSource, tokenizer: Tokenizer, config: DataConfig) -> LatentStore:
    """Open the store of all images of `source` in `folder`, after encoding what is missing there.

    Shards with images that were replaced since they were encoded are encoded again.

    Several processes (`config.workers`) are started afresh, so a script that asks for them needs its
    `if __name__ == "__main__"`. Only one program at a time may encode into a folder: `load_data` holds a lock.

    Raises:
        DataError: if the folder holds latents of something else, an image is unreadable (unless those are skipped), or
            latents are not finite, or too large for `config.dtype`.
        OSError: if writing fails. Shards that are finished stay, and the next call goes on from there.
    """
    store = open_current(folder, source, tokenizer, config)
    if store is not None:
        return store
    key = store_key(source, tokenizer, config)
    encoder = Encoder(folder, source, config, key)
    default_device(config.device)  # which may not be there, and is asked for again in every worker
    check_encoding(folder, source, tokenizer, config, encoder.variants)
    missing = [number for number in range(encoder.shards) if not encoder.finished(number, tokenizer)]
    (folder / STORE_FILE).unlink(missing_ok=True)
    clear(folder, encoder.shards)
    tokenizer.save_pretrained(folder / TOKENIZER_FOLDER)
    if len(missing) < encoder.shards:
        log.info("%s: going on with %d of %d shards", folder, len(missing), encoder.shards)
    with step_progress(encoder.shards, None, "encoding images", encoder.shards - len(missing)) as advance:
        for skipped in encode_shards(encoder, missing):
            for reason in skipped:
                log.warning("skipped %s", reason)
            advance()
    write_record(folder, encoder.shards, key, str(source.root), source.class_names)
    warn_unless_normalised(*encoder.some_moments())
    return open_complete(folder, key, tokenizer)


def open_current(folder: Path, source: ImageSource, tokenizer: Tokenizer, config: DataConfig) -> LatentStore | None:
    """Open the store in `folder` if it is complete and no image was replaced since it was encoded.

    Raises:
        DataError: if it is of something else.
    """
    if not LatentStore.complete(folder):
        return None
    store = open_complete(folder, store_key(source, tokenizer, config), tokenizer)
    return None if any(shard.changed(source) for shard in store.shards) else store


def open_complete(folder: Path, key: Key, tokenizer: Tokenizer) -> LatentStore:
    """Open the complete store in `folder`, which must be of `key`."""
    store = LatentStore.open(folder)
    check_key(folder, store.key, key, tokenizer)
    return store


def store_key(source: ImageSource, tokenizer: Tokenizer, config: DataConfig) -> Key:
    """Plain data that the latents of a store depend on."""
    height, width = source.image_size
    return {
        "images": len(source),
        "fingerprint": source.fingerprint(),
        "image_size": height if height == width else [height, width],
        "image_channels": source.channels,
        "flips": source.flips if config.flips is None else config.flips,
        "crops": config.crops,
        "dtype": config.dtype,
        "tokenizer": tokenizer.record(),
    }


def clear(folder: Path, shards: int) -> None:
    """Remove the half-written files of a killed process, and shards of a division into more."""
    parts = [*folder.glob(".*.part"), *(folder / TOKENIZER_FOLDER).glob(".*.part")]
    kept = {shard_path(folder, number) for number in range(shards)}
    for path in [*parts, *(set(folder.glob("shard_*.safetensors")) - kept)]:
        remove(path)


@dataclass
class Encoder:
    """Encodes shards of one store; every worker process has a copy."""

    folder: Path
    source: ImageSource
    config: DataConfig
    key: Key

    @property
    def shards(self) -> int:
        return -(-len(self.source) // self.config.shard_size)

    @property
    def variants(self) -> int:
        """The number of encodings of every image."""
        return 1 + int(self.key["flips"]) + self.config.crops

    @cached_property
    def device(self) -> torch.device:
        return default_device(self.config.device)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the store, on the device."""
        return load_tokenizer(self.folder / TOKENIZER_FOLDER).to(self.device)

    @cached_property
    def noisy(self) -> bool:
        """Whether the tokenizer's posterior has a standard deviation that is worth keeping."""
        image = torch.zeros(1, self.source.channels, *self.source.image_size, device=self.device)
        std = self.tokenizer.posterior(image)[1]
        return bool(std.any())

    def finished(self, number: int, tokenizer: Tokenizer) -> bool:
        """Whether shard `number` is there, whole, and as this encoder would write it.

        Raises:
            DataError: if it is whole, but of something else.
        """
        path = shard_path(self.folder, number)
        if not path.exists():
            return False
        try:
            shard = Shard.open(path)
        except DataError as error:
            log.warning("%s; encoding it again", error)
            return False
        check_key(path, shard.key, self.key, tokenizer)
        if shard.checksum() != shard.crc32:
            log.warning("%s: expected checksum %s, got another; encoding it again", path, shard.crc32)
            return False
        refused = shard.skipped and self.config.on_bad_image == "fail"
        images = len(shard.labels) + len(shard.skipped)
        if refused or (shard.first, images) != (self.indices(number).start, len(self.indices(number))):
            return False
        if changed := shard.changed(self.source):
            others = f", and {len(changed) - 1} others of its shard" if len(changed) > 1 else ""
            name = self.source.root / self.source.name(changed[0])
            log.warning("%s: changed since it was encoded%s; encoding %s again", name, others, path)
        return not changed

    def indices(self, number: int) -> range:
        """The images of shard `number`."""
        size = self.config.shard_size
        return range(number * size, min((number + 1) * size, len(self.source)))

    def some_moments(self) -> tuple[Tensor, Tensor]:
        """The posteriors of some images from all shards: means and standard deviations, each [B, c, h, w]."""
        each = max(1, SAMPLED_IMAGES // self.shards)
        moments = torch.cat([Shard.open(shard_path(self.folder, n)).moments[:each] for n in range(self.shards)])
        mean = moments[:, 0, 0].float()
        return mean, moments[:, 0, 1].float() if self.noisy else torch.zeros_like(mean)

    def write(self, number: int) -> list[str]:
        """Encode and write shard `number`, and return a message for every unreadable image.

        Raises:
            DataError, OSError: as `encode`.
        """
        indices = self.indices(number)
        labels, moments = [self.source.labels[:0]], [self.no_moments()]
        skipped: list[str] = []
        pictures = stamps(self.source, indices)
        at_once = max(1, self.config.encode_batch // moments[0].shape[1])
        for start in range(0, len(indices), at_once):
            images = self.read(indices[start : start + at_once], skipped)
            if images:
                labels.append(self.source.labels[[*images]])
                moments.append(self.moments(images))
        shard = Shard(torch.cat(moments), torch.cat(labels), self.key, indices.start, skipped, pictures=pictures)
        shard.save(shard_path(self.folder, number))
        return skipped

    def no_moments(self) -> Tensor:
        """Empty moments, [0, variants, 1 or 2, c, h, w] in the dtype of the store."""
        grid = (side // self.tokenizer.stride for side in self.source.image_size)
        shape = (0, self.variants, 1 + self.noisy, self.tokenizer.channels, *grid)
        return torch.empty(shape, dtype=parse_dtype(self.config.dtype))

    def read(self, indices: Iterable[int], skipped: list[str]) -> dict[int, Tensor]:
        """Read images by number, each uint8 [variants, channels, H, W]; errors are added to `skipped`."""
        images: dict[int, Tensor] = {}
        for index in indices:
            try:
                images[index] = self.source.cut(index, self.key["flips"], self.config.crops)
            except DataError as error:
                if self.config.on_bad_image == "fail":
                    raise
                skipped.append(str(error))
        return images

    def moments(self, images: Mapping[int, Tensor]) -> Tensor:
        """Moments [B, variants, 1 or 2, c, h, w] of images by number, in the dtype of the store."""
        pixels = torch.stack([*images.values()])  # [B, variants, channels, H, W]
        posterior = self.tokenizer.posterior(to_unit_range(pixels.flatten(0, 1).to(self.device)))
        exact = torch.stack(posterior[: 1 + self.noisy], 1).unflatten(0, pixels.shape[:2]).cpu()
        stored = exact.to(parse_dtype(self.config.dtype))
        for index, fits in zip(images, stored.flatten(1).isfinite().all(1).tolist(), strict=True):
            if not fits:
                raise self.not_storable(index, exact)
        return stored

    def not_storable(self, index: int, exact: Tensor) -> DataError:
        """The error for an image whose latents are not finite in the dtype of the store."""
        name = self.source.root / self.source.name(index)
        if exact.isfinite().all():
            return DataError(f"{name}: expected latents that {self.config.dtype} holds, got {exact.abs().max():.4g}")
        return DataError(f"{name}: expected finite latents, got NaN or infinity from the tokenizer")


_encoder: Encoder  # of a worker process


def encode_shards(encoder: Encoder, numbers: Sequence[int]) -> Iterator[list[str]]:
    """Write shards, and yield the messages about the unreadable images of each when it is done."""
    workers = min(encoder.config.workers, len(numbers))
    if workers < 2:
        yield from map(encoder.write, numbers)
        return
    others = {*multiprocessing.active_children()}
    with ProcessPoolExecutor(
        workers,
        multiprocessing.get_context("spawn"),  # a forked process has neither threads nor a GPU
        start_worker,
        (pickle.dumps(encoder), max(1, usable_cpus() // workers)),  # pickled here: torch would share memory instead
    ) as pool:
        futures = [pool.submit(write_in_worker, number) for number in numbers]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise DataError(
                "encoding: a worker process was killed, as for want of memory; start again to go on"
            ) from error
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            for worker in {*multiprocessing.active_children()} - others:  # rather than wait for their shards
                worker.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def start_worker(encoder: bytes, threads: int) -> None:
    """Prepare a worker process, which ends silently when it is interrupted or its parent is gone."""
    global _encoder
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _encoder = pickle.loads(encoder)


def end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


def write_in_worker(number: int) -> list[str]:
    return _encoder.write(number)
