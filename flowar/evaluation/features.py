"""Extraction of features in chunks, which are kept in files, so that processes share them and a run goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowar.errors import CheckpointError, FlowARError
from flowar.evaluation.extractors import Extractor, Features
from flowar.evaluation.images import Images
from flowar.evaluation.settings import differences
from flowar.storage.weights import open_safetensors, save_tensors
from flowar.system.files import write_json
from flowar.system.memory import check_memory
from flowar.system.progress import step_progress
from flowar.system.ranks import Ranks
from flowar.system.structured import read_json

log = logging.getLogger(__name__)

SETTINGS, CHUNKS = "settings.json", "chunk_*.safetensors"


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
    renew: bool = False,
) -> FeatureChunks:
    """Compute the features of all images, which can then be read on every rank.

    Chunk j holds the images from `j * batch_size` on, and rank j % world_size computes it, so that features do not
    depend on the number of ranks. Chunks that are in `folder` already are not computed again, unless they are damaged.
    All ranks must see the same folder.

    Args:
        images: the images.
        extractor: the network.
        folder: the folder of the chunks, which stay there for the next evaluation of the same images.
        settings: plain data that the features depend on.
        ranks: this process among others.
        batch_size: the number of images in a chunk.
        description: the words beside the progress bar, which counts the chunks of this rank.
        renew: whether features of other settings make room for these.

    Raises:
        FlowARError: if the folder holds features of other settings, naming the first difference, unless `renew`.
    """
    settings = settings | {"batch_size": batch_size}
    at_once, (height, width) = min(batch_size, len(images)), images.size
    check_memory("batch_size", f"{at_once} images of {width}x{height}", at_once * height * width)
    with ranks.main_first():
        check_settings(folder, settings, CHUNKS, renew)
    starts = [*range(0, len(images), batch_size)]
    mine = starts[ranks.rank :: ranks.world_size]
    missing = [start for start in mine if not is_whole(chunk_path(folder, start))]
    with step_progress(len(mine), None, description, len(mine) - len(missing)) as advance:
        for start in missing:
            features = extractor(images.read(start, min(start + batch_size, len(images))))
            save_tensors(chunk_path(folder, start), features._asdict())
            advance()
    ranks.wait_for_all()  # nobody goes on before all are done
    return FeatureChunks([chunk_path(folder, start) for start in starts], batch_size)


def check_settings(folder: Path, settings: dict[str, Any], results: str, renew: bool = False) -> None:
    """Write the settings of a folder without results, or compare them with those that its results have.

    Args:
        folder: the folder.
        settings: plain data that results depend on.
        results: the pattern of the names of files with results.
        renew: whether results of other settings are removed.

    Raises:
        FlowARError: if the settings differ, naming the first difference, unless `renew`.
    """
    if renew and differing(folder, settings, results):
        log.info("%s: what another run left unfinished there is removed", folder)
        for result in folder.glob(results):
            result.unlink()
    refuse_others(folder, settings, results)
    write_json(folder / SETTINGS, settings)


def refuse_others(folder: Path, settings: dict[str, Any], results: str = CHUNKS) -> None:
    """Check that a folder has no results of other settings. The arguments and the error are as of `check_settings`."""
    if different := differing(folder, settings, results):
        name, (there, here) = next(iter(different.items()))
        more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
        raise FlowARError(
            f"{folder}: expected features of {name} {here}, found those of {there}{more}: use another folder"
        )


def differing(folder: Path, settings: dict[str, Any], results: str) -> dict[str, tuple[Any, Any]]:
    """Each setting of the results in a folder that is another one: that of the results, and that of `settings`."""
    path = folder / SETTINGS
    if not any(folder.glob(results)) or not path.exists():
        return {}
    return differences(read_json(path, dict, FlowARError), settings)


def is_whole(path: Path) -> bool:
    """Whether a chunk is there and as it was written."""
    if not path.exists():
        return False
    try:
        open_safetensors(path)
    except CheckpointError as error:
        log.warning("%s; computing it again", error)
        return False
    return True


def chunk_path(folder: Path, start: int) -> Path:
    return folder / f"chunk_{start:08d}.safetensors"
