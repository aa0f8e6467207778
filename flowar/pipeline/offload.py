"""A part of a pipeline on another device for as long as it is at work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from flowar.errors import FlowARError
from flowar.system.arguments import check_integer
from flowar.system.precision import default_device


def offload_device(gpu_id: int | None, device: torch.device | str | None) -> torch.device:
    """The accelerator that parts are to work on.

    Raises:
        FlowARError: for a machine without one, and for the CPU.
        ValueError: for a device that this machine does not have.
    """
    if device is None and not torch.cuda.is_available():
        raise FlowARError("enable_model_cpu_offload: expected a GPU to work on, got a machine without one")
    found = default_device("cuda" if device is None else device)
    if found.type == "cpu":
        raise FlowARError("enable_model_cpu_offload: expected a GPU to work on, got the CPU, where the parts wait")
    return found if gpu_id is None else default_device(f"{found.type}:{check_integer('gpu_id', gpu_id, 0)}")


@contextmanager
def at_work(module: nn.Module, device: torch.device | None) -> Iterator[None]:
    """In this context a module lies on `device`, afterwards on the CPU again; None leaves it where it is.

    Where it is there already, as inside of another such context, it stays.
    """
    if device is None or all(each.device == device for each in (*module.parameters(), *module.buffers())):
        yield
        return
    try:
        module.to(device)
        yield
    finally:
        module.to("cpu")
