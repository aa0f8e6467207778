"""Checkpoints of a run: folders written aside, in the background, by all ranks together, and checked on loading.

A checkpoint is a folder `step_00000500`:

    shard-*.safetensors   the tensors of a run's state, by torch.distributed.checkpoint: every rank writes its part,
                          and any number of ranks may read
    checkpoint.json       written last: steps, the configuration, size and checksum of every file, and its own

A folder whose name begins with a dot is one that a killed run did not finish.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Protocol, TypedDict

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load as load_distributed
from torch.distributed.checkpoint.state_dict_saver import async_save

from flowar.errors import CheckpointError, DataError, first_line, shown
from flowar.evaluation.settings import differences
from flowar.storage.checksums import crc32_of, read_sealed, write_sealed
from flowar.system.files import open_regular
from flowar.system.ranks import Ranks
from flowar.system.rules import FileName, Index
from flowar.system.structured import as_record

log = logging.getLogger(__name__)

RECORD_FILE = "checkpoint.json"


class WrittenFile(TypedDict):
    """What a checkpoint's record says of a file."""

    bytes: Index
    crc32: str


class CheckpointRecord(TypedDict):
    """What is read of `checkpoint.json`, beside the counters of the state."""

    config: Mapping[str, Any]
    files: Mapping[Annotated[str, FileName()], WrittenFile]


class State(Protocol):
    """The state of a run that a checkpoint keeps."""

    @property
    def step(self) -> int:
        """The number of steps taken."""

    def identity(self) -> dict[str, Any]:
        """Plain data that identifies the run: a checkpoint with other data belongs to another run."""

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the state by name; loading writes to these very tensors."""

    def progress(self) -> dict[str, int]:
        """All counters of the state, `step` among them."""

    def set_progress(self, progress: dict[str, Any]) -> None:
        """Set the counters that `progress` returned."""


def checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints in `folder`, oldest first."""
    found = {int(m[1]): path for path in folder.glob("step_*") if (m := re.fullmatch(r"step_(\d+)", path.name))}
    return [found[step] for step in sorted(found)]


def folder_name(step: int) -> str:
    """What the checkpoint of a step is called."""
    return f"step_{step:08d}"


def check_run_folder(output: Path, folder: Path, resume: bool) -> None:
    """Check that a run in `output` finds checkpoints in `folder` if it is to be resumed, and none if it is to begin.

    Raises:
        DataError: if it does not.
    """
    found = checkpoints(folder)
    if resume and not found:
        raise DataError(f"resume: expected checkpoints in {folder}, found none")
    if found and not resume:
        raise DataError(f"output: expected a folder without a run, found checkpoints in {output}; resume it instead")


class CheckpointWriter:
    """Saves the state of a run in the background, one checkpoint at a time."""

    def __init__(self, folder: Path, keep: int, ranks: Ranks) -> None:
        self.folder, self.keep, self.ranks = folder, keep, ranks
        self.thread = ThreadPoolExecutor(1, "checkpoint")
        # Its own, for what threads say to each other must not come between what the training step says.
        self.group = dist.new_group(backend="gloo") if ranks.world_size > 1 else None
        self.finishing: Future[None] | None = None
        if ranks.main and folder.is_dir():
            for unfinished in folder.glob(".step_*"):
                shutil.rmtree(unfinished)

    def save(self, state: State, **about: Any) -> None:
        """Copy the state, then write it in the background. All ranks must call this together.

        Args:
            state: the state.
            about: plain data for its record.

        Raises:
            OSError: if writing the one before failed; those before that are as they were.
        """
        self.wait()
        path = self.folder / folder_name(state.step)
        aside = path.with_name(f".{path.name}")
        record = {"format": 1, **state.progress(), **about, "config": state.identity()}
        with self.ranks.main_first():
            aside.mkdir(parents=True, exist_ok=True)
        storage = HuggingFaceStorageWriter(str(aside), save_distributed=True)
        written = async_save(
            state.tensors(), storage_writer=storage, process_group=self.group, no_dist=self.group is None
        )
        self.finishing = self.thread.submit(self._finish, written, aside, path, record)

    def wait(self) -> None:
        """Wait until the checkpoint that `save` began is on disk.

        Raises:
            OSError: if writing failed; older checkpoints are as they were, and nothing is left of this one.
        """
        finishing, self.finishing = self.finishing, None
        if finishing is not None:
            finishing.result()

    def close(self) -> None:
        """Wait for the last checkpoint and end the thread."""
        try:
            self.wait()
        finally:
            self.thread.shutdown()

    def _finish(self, written: Any, aside: Path, path: Path, record: dict[str, Any]) -> None:
        """Wait for all ranks, complete the folder, give it its name, and remove the oldest checkpoints."""
        try:
            written.result()
            if self.ranks.main:
                record["files"] = {file.name: file_record(file) for file in sorted(aside.glob("*.safetensors"))}
                write_sealed(aside / RECORD_FILE, record)
                shutil.rmtree(path, ignore_errors=True)  # of an earlier run of the same steps
                os.replace(aside, path)
                for old in checkpoints(self.folder)[: -self.keep]:
                    shutil.rmtree(old)
        except (Exception, CheckpointException) as error:  # which is none of the former
            if self.ranks.main:
                shutil.rmtree(aside, ignore_errors=True)
            raise OSError(f"{path}: writing failed: {first_line(cause(error))}") from error


def load_checkpoint(state: State, folder: Path, ranks: Ranks) -> tuple[Path, dict[str, Any]]:
    """Continue from the newest checkpoint in `folder` that is whole, which the main rank chooses for all.

    All ranks must call this together. Damaged checkpoints are named in the log and passed over.

    Returns:
        The checkpoint and its record.

    Raises:
        DataError: if none is whole, or the newest belongs to another configuration. On the other ranks
            that is a TrainingError.
    """
    path, record = ranks.from_main(lambda: newest_whole(state, folder))
    load(state, path, ranks)
    state.set_progress(record)
    log.info("resumed from %s", path)
    return path, record


def newest_whole(state: State, folder: Path) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint in `folder` that is whole, and its record.

    Raises:
        DataError: as `load_checkpoint`.
    """
    found = checkpoints(folder)
    for path in reversed(found):
        try:
            record = check(path, state.progress())
        except DataError as error:
            log.warning("%s; trying the checkpoint before it", error)
            continue
        different = differences(state.identity(), record["config"])
        for name, (expected, got) in different.items():
            raise DataError(f"{path}: expected a checkpoint of {name} {shown(expected)}, got one of {shown(got)}")
        return path, record
    raise DataError(f"resume: expected a checkpoint that is whole in {folder}, got {len(found)} damaged ones")


def load(state: State, path: Path, ranks: Ranks) -> None:
    """Read the checkpoint at `path` into the tensors of `state`."""
    reader, alone = HuggingFaceStorageReader(str(path)), ranks.world_size == 1
    try:
        load_distributed(state.tensors(), storage_reader=reader, process_group=ranks.patient, no_dist=alone)
    except CheckpointException as error:
        raise DataError(f"{path}: expected a training checkpoint ({first_line(cause(error))})") from error


def check(path: Path, progress: dict[str, int]) -> dict[str, Any]:
    """Read the record of a checkpoint and check that its files are as they were written.

    Raises:
        DataError: for a record without one of the keys of `progress`, or naming the first file that has changed.
    """
    try:
        sealed = read_sealed(path / RECORD_FILE)
    except CheckpointError as error:
        raise DataError(str(error)) from error
    record: dict[str, Any] = dict(as_record(sealed, CheckpointRecord, str(path / RECORD_FILE), DataError))
    for name in progress:
        as_record(record.get(name), Index, f"{path / RECORD_FILE}: {name}", DataError)
    if path.name != folder_name(record["step"]):
        raise DataError(f"{path / RECORD_FILE}: expected step {path.name}, got {record['step']}")
    for name, written in record["files"].items():
        try:
            size = (path / name).stat().st_size
            found: object = file_record(path / name) if size == written["bytes"] else {"bytes": size}
        except OSError as error:
            found = first_line(error)
        if found != written:
            raise DataError(f"{path / name}: expected {written}, got {found}")
    return record


def file_record(file: Path) -> dict[str, Any]:
    """Flush a file to disk and return its size and CRC-32."""
    with open_regular(file) as content:
        crc = crc32_of(content)
        os.fsync(content.fileno())
    return {"bytes": file.stat().st_size, "crc32": f"{crc:08x}"}


def cause(error: BaseException) -> BaseException:
    """The error behind what torch.distributed.checkpoint makes of it: that of the first rank that failed."""
    failures = getattr(error, "failures", None)
    if failures:
        return next(iter(failures.values()))[0]
    return error
