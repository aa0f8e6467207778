"""The processes of a run, which `torchrun` starts; without it there is one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from flowar.errors import TrainingError
from flowar.system.precision import default_device

PATIENCE = timedelta(days=20)  # gloo counts milliseconds, in 31 bits
LAST_WORDS = 2  # seconds that the main process has to say how it failed: torchrun ends all when the first one ends
Found = TypeVar("Found")


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run.

    Attributes:
        device: the device that this process computes on.
        rank: the number of this process; 0 is the main one, which alone writes logs and pictures.
        world_size: the number of processes.
        local_size: the number of processes on this machine.
        patient: the group of all processes for what may take long, as encoding does: no time-out ends its collectives.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1
    local_size: int = 1
    patient: dist.ProcessGroup | None = None

    @property
    def main(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of `tensor` over all ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def share(self, values: Tensor) -> Tensor:
        """This rank's part of `values` [N, ...], which all ranks have: [N / world_size, ...] in the order of ranks.

        The first N % world_size ranks have one more.
        """
        return values.tensor_split(self.world_size)[self.rank]

    def gather(self, values: Tensor) -> Tensor:
        """Gather the parts of all ranks, [N, ...], on every rank: the inverse of `share`."""
        if self.world_size == 1:
            return values
        parts: list[Tensor | None] = [None] * self.world_size
        dist.all_gather_object(parts, values.cpu(), self.patient)
        return torch.cat([part for part in parts if part is not None]).to(values.device)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Let the main rank run this context before all others, to fill a cache that they then find.

        However long that takes, they wait.

        Raises:
            TrainingError: on the others, if the main rank failed.
        """
        if not self.main:
            self._hear()
        try:
            yield
        except BaseException as error:
            if self.main:
                self._tell(None, error)
            raise
        if self.main:
            self._tell(None)

    def from_main(self, find: Callable[[], Found]) -> Found:
        """What `find` returns on the main rank, which alone calls it, on all ranks: plain data.

        Raises:
            TrainingError: on the others, if the main rank failed.
        """
        if not self.main:
            found: Found = self._hear()
            return found
        try:
            found = find()
        except BaseException as error:
            self._tell(None, error)
            raise
        self._tell(found)
        return found

    def wait_for_all(self) -> None:
        """Wait until all ranks have come here, however long that takes."""
        if self.world_size > 1:
            dist.barrier(self.patient)

    def _tell(self, value: Any, error: BaseException | None = None) -> None:
        """Send a value to all other ranks, or that the main one failed."""
        if self.world_size > 1:
            failure = None if error is None else f"{type(error).__name__}: {error}"
            dist.broadcast_object_list([value, failure], src=0, group=self.patient)

    def _hear(self) -> Any:
        """Receive what the main rank tells."""
        told = [None, None]
        if self.world_size > 1:
            dist.broadcast_object_list(told, src=0, group=self.patient)
        value, failure = told
        if failure is not None:
            time.sleep(LAST_WORDS)
            raise TrainingError(f"the main process failed: {failure}")
        return value


@contextmanager
def join_ranks(device: str = "auto") -> Iterator[Ranks]:
    """Join the processes that torchrun started, or those of a process group that exists, which stays as it is.

    Without either this process is alone.

    Args:
        device: "auto" or a device of torch. In a group that exists already it is this process's own.

    Raises:
        ValueError: for a device that is not there, and for one that processes of a run cannot share out.
    """
    chosen = default_device(device)
    if dist.is_initialized():
        if dist.get_backend() == "nccl" and chosen.type != "cuda":
            raise ValueError(f"device: expected a GPU, as the process group of nccl serves, got {chosen}")
        with ranks_of_group(chosen) as ranks:
            yield ranks
        return
    if "WORLD_SIZE" not in os.environ:
        yield Ranks(chosen)
        return
    if chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"device: expected cpu or a CUDA GPU for several processes, got {chosen}")
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(chosen)
    # Checkpoints are gathered by threads of their own, on the CPU: that takes gloo beside nccl.
    dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo")
    try:
        with ranks_of_group(chosen) as ranks:
            yield ranks
    finally:
        dist.destroy_process_group()


@contextmanager
def joined(ranks: Ranks | None, device: str = "auto") -> Iterator[Ranks]:
    """`ranks`, or if they are left out those of `join_ranks`."""
    if ranks is not None:
        yield ranks
        return
    with join_ranks(device) as found:
        yield found


@contextmanager
def ranks_of_group(device: torch.device) -> Iterator[Ranks]:
    """The ranks of the process group of this program; all of them must call this together."""
    rank, size = dist.get_rank(), dist.get_world_size()
    if size == 1:
        yield Ranks(device)
        return
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))  # processes that say nothing else are on one machine
    patient = dist.new_group(backend="gloo", timeout=PATIENCE)
    try:
        yield Ranks(device, rank, size, local_size, patient)
    finally:
        dist.destroy_process_group(patient)
