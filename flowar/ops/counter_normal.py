from __future__ import annotations

import torch
from torch import Tensor

from flowar.ops import backend, reference
from flowar.ops.refusal import refusing
from flowar.system.hardware import widest_float

_forward = backend.op("counter_normal")


@refusing
def counter_normal(seeds: Tensor, stream: int, count: int) -> Tensor:
    """Standard normals, a pure function of (seed, stream, index). Equivalent to `reference.counter_normal`.

    Args:
        seeds: [B] int64.
        stream: 0 .. 2**32 - 1; independent numbers for each.
        count: how many numbers per seed, at most 2**34.

    Returns:
        [B, count] float32, the same on every device up to the last place.

    Raises:
        ValueError: seeds that are not one-dimensional int64, or `stream` or `count` out of range.
    """
    if backend.reference_serves("counter_normal", seeds):
        if widest_float(seeds.device) != torch.float64:  # in which the reference computes
            return counter_normal(seeds.cpu(), stream, count).to(seeds.device)
        return reference.counter_normal(seeds, stream, count)
    result: Tensor = _forward(seeds, stream, count)
    return result


def _fake(seeds: Tensor, stream: int, count: int) -> Tensor:
    return seeds.new_empty((seeds.shape[0], count), dtype=torch.float32)


backend.register_fake("counter_normal", _fake)
