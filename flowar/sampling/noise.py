"""Noise that depends on the seed alone: image i of seed s has the same in any batch, on any device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import index
from typing import Any

import torch
from torch import Tensor

from flowar import ops
from flowar.system.arguments import check_each
from flowar.system.tensors import check_tensor
from flowar.system.transfer import to_device


def image_seeds(seed: int | Sequence[int], batch: int) -> Tensor:
    """One 64-bit seed per image, int64 [batch]: for image i of one `seed`, or for the first image of each seed.

    Raises:
        ValueError: unless `seed` is an integer or `batch` integers.
    """
    values: Any = seed.tolist() if hasattr(seed, "tolist") else seed  # tensors and arrays
    expected = f"one integer or {batch} (one per image)"
    try:
        pairs = [(values, i) for i in range(batch)] if isinstance(values, int) else [(index(one), 0) for one in values]
    except TypeError as error:
        raise ValueError(f"seed: expected {expected}, got {seed!r}") from error
    if len(pairs) != batch:
        raise ValueError(f"seed: expected {expected}, got {len(pairs)}")
    return torch.tensor([mix(mix(seed) + image) for seed, image in pairs], dtype=torch.int64)


def mix(value: int) -> int:
    """The splitmix64 finaliser, as a signed 64-bit number: neighbouring inputs give unrelated outputs."""
    mask = 2**64 - 1
    z = (value + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    z ^= z >> 31
    return z - 2**64 if z >= 2**63 else z


def scale_noise(
    seed: int | Sequence[int], batch: int, lengths: Sequence[int], channels: int, device: torch.device
) -> list[Tensor]:
    """Standard normal noise [batch, n_k, c] float32 for every scale k."""
    seeds = to_device(image_seeds(seed, batch), device)
    return [ops.counter_normal(seeds, k, n * channels).view(batch, n, channels) for k, n in enumerate(lengths)]


def check_noise(noise: Sequence[Tensor], batch: int, lengths: Sequence[int], channels: int) -> Sequence[Tensor]:
    """`noise`, if it is one tensor [batch, n_k, channels] for every scale.

    Raises:
        ValueError: for other shapes, and for what are no tensors of floats.
    """
    check_each("noise", noise, partial(check_tensor, shape=None))
    shapes, expected = [list(part.shape) for part in noise], [[batch, n, channels] for n in lengths]
    if shapes != expected:
        raise ValueError(f"noise: expected tensors of shapes {expected}, got {shapes}")
    return noise
