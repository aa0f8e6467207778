"""The processes of a run, which `torchrun` starts; without it there is one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from flowar.errors import TrainingError
from flowar.system.precision import default_device


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run.

    Attributes:
        device: the device that this process computes on.
        rank: the number of this process; 0 is the main one, which alone writes logs and pictures.
        world_size: the number of processes.
        local_size: the number of processes on this machine.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1
    local_size: int = 1

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
        dist.all_gather_object(parts, values.cpu())
        return torch.cat([part for part in parts if part is not None]).to(values.device)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Let the main rank run this context before all others, to fill a cache that they then find.

        Raises:
            TrainingError: on the others, if the main rank failed.
        """
        if not self.main:
            self._outcome(None)
        try:
            yield
        except BaseException as error:
            if self.main:
                self._outcome(f"{type(error).__name__}: {error}")
            raise
        if self.main:
            self._outcome(None)

    def _outcome(self, failure: str | None) -> None:
        """Tell all ranks on the main one whether it failed; on the others, wait to be told."""
        if self.world_size == 1:
            return
        outcome = [failure]
        dist.broadcast_object_list(outcome, src=0)
        if outcome[0] is not None and not self.main:
            raise TrainingError(f"the main process failed: {outcome[0]}")


@contextmanager
def join_ranks(device: str) -> Iterator[Ranks]:
    """Join the processes that torchrun started; `device` is "auto" or a device of torch.

    Raises:
        ValueError: for a device that is not there, and for one that processes of a run cannot share out.
    """
    chosen = default_device(device)
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
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
        yield Ranks(chosen, dist.get_rank(), dist.get_world_size(), int(os.environ["LOCAL_WORLD_SIZE"]))
    finally:
        dist.destroy_process_group()
