"""A store of latents that a model draws itself, for students of a teacher whose images nobody has."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from flowar.errors import DataError
from flowar.pipeline import FlowARPipeline
from flowar.sampling.noise import mix
from flowar.sampling.schedule import Schedule
from flowar.storage.weights import fingerprint
from flowar.system.progress import step_progress
from flowar.system.ranks import Ranks
from flowar.training.latent_store import (
    TOKENIZER_FOLDER,
    Key,
    LatentStore,
    Shard,
    check_key,
    shard_path,
    write_record,
)

SHARD_IMAGES = 1024
AT_ONCE = 64  # images of one call, whatever the memory of the machine


def teacher_latents(
    folder: Path, teacher: FlowARPipeline, schedule: Schedule, images: int, seed: int, ranks: Ranks
) -> LatentStore:
    """Open the store in `folder` of `images` that the teacher draws, after drawing what is missing there.

    All classes come equally often. Image number i depends on the teacher, the schedule, `seed` and i alone, so that
    ranks share the work, shard by shard, and wait for each other however long that takes; all must call this together.

    Raises:
        DataError: if the folder holds latents of something else.
        OSError: if writing fails. Shards that are finished stay, and the next call goes on from there.
    """
    artist = Artist(folder, teacher, schedule, images, seed)
    with ranks.main_first():
        if ranks.main and not LatentStore.complete(folder):
            teacher.tokenizer.save_pretrained(folder / TOKENIZER_FOLDER)
    if not LatentStore.complete(folder):
        # Found once for all: what a late rank found would lack what others have drawn by then.
        missing = ranks.from_main(lambda: [number for number in range(artist.shards) if not artist.finished(number)])
        own = missing[ranks.rank :: ranks.world_size]
        with step_progress(len(own), None if ranks.main else False, "drawing latents") as advance:
            for number in own:
                artist.draw(number)
                advance()
    ranks.wait_for_all()
    with ranks.main_first():
        if ranks.main and not LatentStore.complete(folder):
            names = teacher.model.config.class_names
            write_record(folder, artist.shards, artist.key, "the teacher's own", names)
    store = LatentStore.open(folder)
    check_key(folder, store.key, artist.key, teacher.tokenizer)
    return store


@dataclass
class Artist:
    """Draws the shards of one store."""

    folder: Path
    teacher: FlowARPipeline
    schedule: Schedule
    images: int
    seed: int

    def __post_init__(self) -> None:
        self.key: Key = {
            "images": self.images,
            "teacher": fingerprint(self.teacher.model.state_dict()),
            "schedule": json.loads(json.dumps(self.schedule.to_dict())),  # with lists, as it is read again
            "seed": self.seed,
            "tokenizer": self.teacher.tokenizer.record(),
        }

    @property
    def shards(self) -> int:
        return -(-self.images // SHARD_IMAGES)

    def finished(self, number: int) -> bool:
        """Whether shard `number` is there, whole, and as this would write it."""
        path = shard_path(self.folder, number)
        if not path.exists():
            return False
        try:
            shard = Shard.open(path)
        except DataError:
            return False
        check_key(path, shard.key, self.key, self.teacher.tokenizer)
        return shard.checksum() == shard.crc32 and len(shard.labels) == len(self.numbers(number))

    def numbers(self, number: int) -> torch.Tensor:
        """The images of shard `number`."""
        return torch.arange(number * SHARD_IMAGES, min((number + 1) * SHARD_IMAGES, self.images))

    def draw(self, number: int) -> None:
        """Draw and write shard `number`."""
        numbers = self.numbers(number)
        labels = numbers % self.teacher.model.config.num_classes
        seeds = [mix(mix(self.seed) + image) for image in numbers.tolist()]
        latents = [
            self.teacher.model.sample(part, schedule=self.schedule, seed=seeds[start : start + AT_ONCE], progress=False)
            for start, part in zip(range(0, len(labels), AT_ONCE), labels.split(AT_ONCE), strict=True)
        ]
        moments = torch.cat(latents).float().cpu()[:, None, None]  # [n, 1, 1, c, h, w]
        Shard(moments, labels, self.key, int(numbers[0]), []).save(shard_path(self.folder, number))
