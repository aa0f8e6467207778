"""Extraction of features in chunks, which are kept in files, so that processes share them and a run goes on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowar.errors import FlowARError
from flowar.evaluation.extractors import Extractor, Features
from flowar.evaluation.images import Images
from flowar.evaluation.settings import differences
from flowar.storage.weights import open_safetensors, save_tensors
from flowar.system.files import write_json
from flowar.system.memory import check_memory
from flowar.system.progress import step_progress
from flowar.system.ranks import Ranks
from flowar.system.structured import read_json

SETTINGS = "settings.json"


@dataclass(frozen=True)
class FeatureChunks:
    """Features in files, in the order of the images; iteration keeps one chunk in memory.

    Attributes:
        paths: the files of the chunks.
        batch_size: the number of features in each chunk but the last.
    """

    paths: list[Path]
    batch_size: int

    def __iter__(self) -> Iterator[Features]:
        for path in self.paths:
            yield Features(**open_safetensors(path))

    def joined(self) -> Features:
        """The features of all chunks."""
        return Features(*map(torch.cat, zip(*self, strict=True)))

    def every(self, step: int) -> Tensor:
        """The pooled features of every `step`-th image, from the first on."""
        parts = [chunk.pooled[-index * self.batch_size % step :: step] for index, chunk in enumerate(self)]
        return torch.cat(parts)


def extract(
    images: Images,
    extractor: Extractor,
    folder: Path,
    settings: dict[str, Any],
    ranks: Ranks,
    batch_size: int,
    description: str,
) -> FeatureChunks:
    """Compute the features of all images, which can then be read on every rank.

    Chunk j holds the images from `j * batch_size` on, and rank j % world_size computes it, so that features do not
    depend on the number of ranks. Chunks that are in `folder` already are not computed again. All ranks must see the
    same folder.

    Args:
        images: the images.
        extractor: the network.
        folder: the folder of the chunks, which stay there for the next evaluation of the same images.
        settings: plain data that the features depend on.
        ranks: this process among others.
        batch_size: the number of images in a chunk.
        description: the words beside the progress bar, which counts the chunks of this rank.

    Raises:
        FlowARError: if the folder holds features of other settings, naming the first difference.
    """
    settings = settings | {"batch_size": batch_size}
    at_once, (height, width) = min(batch_size, len(images)), images.size
    check_memory("batch_size", f"{at_once} images of {width}x{height}", at_once * height * width)
    with ranks.main_first():
        check_settings(folder, settings)
    starts = [*range(0, len(images), batch_size)]
    mine = starts[ranks.rank :: ranks.world_size]
    missing = [start for start in mine if not chunk_path(folder, start).exists()]
    with step_progress(len(mine), None, description, len(mine) - len(missing)) as advance:
        for start in missing:
            features = extractor(images.read(start, min(start + batch_size, len(images))))
            save_tensors(chunk_path(folder, start), features._asdict())
            advance()
    ranks.sum(torch.zeros(1, device=ranks.device))  # nobody goes on before all are done
    return FeatureChunks([chunk_path(folder, start) for start in starts], batch_size)


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write the settings of a folder, or compare them with those that are there.

    Raises:
        FlowARError: if they differ, naming the first difference.
    """
    path = folder / SETTINGS
    if not path.exists():
        write_json(path, settings)
        return
    different = differences(read_json(path, dict, FlowARError), settings)
    if different:
        name, (there, here) = next(iter(different.items()))
        more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
        raise FlowARError(
            f"{folder}: expected features of {name} {here}, found those of {there}{more}: use another folder"
        )


def chunk_path(folder: Path, start: int) -> Path:
    return folder / f"chunk_{start:08d}.safetensors"
