"""Copies to the device of a model that the host does not wait for."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Copy a tensor to `device`, in `dtype` if given; the host does not wait for a copy to a GPU.

    It waits for copies of pinned memory, which the GPU would read later, when the owner may have changed it, and for
    copies from a GPU, which it would read too early.
    """
    at_once = tensor.device.type == "cpu" and (torch.compiler.is_compiling() or not tensor.is_pinned())
    return tensor.to(device, dtype, non_blocking=at_once)
