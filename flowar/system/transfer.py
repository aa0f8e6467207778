"""Copies to the device of a model that the host does not wait for."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """`tensor` on `device`, in `dtype` if given. From the host to a GPU, nobody waits until the GPU has come so far.

    Pinned memory is waited for, as the GPU would read it later, when its owner may have changed it; so is what comes
    from a GPU to the host, which would read it too early.
    """
    at_once = tensor.device.type == "cpu" and (torch.compiler.is_compiling() or not tensor.is_pinned())
    return tensor.to(device, dtype, non_blocking=at_once)
