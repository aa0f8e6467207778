"""A model over several processes: replicas (DDP), shards (FSDP2), or shards within each machine (hybrid)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from flowar.config import require
from flowar.model import FlowAR
from flowar.system.ranks import Ranks
from flowar.training.config import Parallel


def parallelize(model: FlowAR, kind: Parallel, ranks: Ranks) -> nn.Module:
    """The module that computes the loss of this rank's images.

    It is the model itself, which FSDP2 changes in place, or DDP around it.

    Raises:
        ValueError: for "hybrid" where machines do not have equally many processes.
    """
    if ranks.world_size == 1:
        return model
    return replicate(model, ranks) if kind in ("auto", "ddp") else shard(model, kind, ranks)


def replicate(model: nn.Module, ranks: Ranks) -> nn.Module:
    """DDP around a model, or the model itself where there is one rank alone."""
    if ranks.world_size == 1:
        return model
    devices = [ranks.device] if ranks.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)


def shard(model: FlowAR, kind: Parallel, ranks: Ranks) -> FlowAR:
    """Split the parameters of every block over the ranks; they are gathered while the block is at work."""
    if kind == "hybrid":
        even = ranks.world_size % ranks.local_size == 0
        require("parallel", "hybrid with as many processes on every machine", f"{ranks.world_size} in all", even)
        shape = (ranks.world_size // ranks.local_size, ranks.local_size)
        mesh = init_device_mesh(ranks.device.type, shape, mesh_dim_names=("replicas", "shards"))
    else:
        mesh = init_device_mesh(ranks.device.type, (ranks.world_size,))
    for network in (model.ar_transformer, model.flow_transformer):
        for block in network.blocks:
            for part in block.early_parts():
                fully_shard(part, mesh=mesh)
            fully_shard(block, mesh=mesh)
        fully_shard(network, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that FSDP2 split; any other tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that FSDP2 split, gathered from all ranks; any other tensor as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


@contextmanager
def gradients_stay(module: nn.Module) -> Iterator[None]:
    """Add gradients up in this context without exchanging them; the next backward pass outside exchanges the sum."""
    unsynchronized: AbstractContextManager[Any] = nullcontext()
    if isinstance(module, DistributedDataParallel):
        unsynchronized = module.no_sync()
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(False)
    with unsynchronized:
        yield
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(True)


def clip_gradients(parameters: list[nn.Parameter], max_norm: float) -> Tensor:
    """Scale gradients to at most `max_norm`, and return their norm over all ranks before (a scalar)."""
    return whole(nn.utils.clip_grad_norm_(parameters, max_norm))


def local_all(tensors: list[Tensor]) -> list[Tensor]:
    """This rank's part of each tensor, without gradients, for foreach kernels."""
    with torch.no_grad():
        return [local(tensor.detach()) for tensor in tensors]
