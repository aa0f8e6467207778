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

MASK = 2**64 - 1
STRIDE, FIRST_FACTOR, SECOND_FACTOR = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # of splitmix64


def image_seeds(seed: int | Sequence[int], batch: int) -> Tensor:
    """One 64-bit seed per image for `counter_normal`, int64 [batch], unrelated for neighbouring seeds and images.

    Raises:
        ValueError: unless `seed` is an integer or `batch` integers.
    """
    return torch.tensor([mix(mix(each)) for each in single_seeds(seed, batch)], dtype=torch.int64)


def single_seeds(seed: int | Sequence[int], batch: int) -> list[int]:
    """The seeds that draw each of `batch` images by itself: of one seed that seed and then others, or those given.

    Raises:
        ValueError: unless `seed` is an integer or `batch` integers.
    """
    values: Any = seed.tolist() if hasattr(seed, "tolist") else seed  # tensors and arrays
    expected = f"one integer or {batch} (one per image)"
    try:
        seeds = one_seed(values, batch) if isinstance(values, int) else [index(each) for each in values]
    except TypeError as error:
        raise ValueError(f"seed: expected {expected}, got {seed!r}") from error
    if len(seeds) != batch:
        raise ValueError(f"seed: expected {expected}, got {len(seeds)}")
    return seeds


def one_seed(seed: int, batch: int) -> list[int]:
    """The seeds of the images of one `seed`: `mix` takes that of image i to i more than the seed itself."""
    return [seed, *(unmix(mix(seed) + i) for i in range(1, batch))]


def mix(value: int) -> int:
    """The splitmix64 finaliser, as a signed 64-bit number: neighbouring inputs give unrelated outputs."""
    z = (value + STRIDE) & MASK
    z = ((z ^ (z >> 30)) * FIRST_FACTOR) & MASK
    z = ((z ^ (z >> 27)) * SECOND_FACTOR) & MASK
    z ^= z >> 31
    return z - 2**64 if z >= 2**63 else z


def unmix(value: int) -> int:
    """The number from 0 to 2^64 - 1 that `mix` takes to `value`, up to multiples of 2^64."""
    z = value & MASK
    z ^= z >> 31 ^ z >> 62
    z = (z * pow(SECOND_FACTOR, -1, 2**64)) & MASK
    z ^= z >> 27 ^ z >> 54
    z = (z * pow(FIRST_FACTOR, -1, 2**64)) & MASK
    z ^= z >> 30 ^ z >> 60
    return (z - STRIDE) & MASK


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
