"""The random numbers of training, which are pure functions of (seed, epoch, image).

They are the same in any batch, on any device and on any number of processes, and a resumed run needs to remember no
generator for them. Dropout alone uses torch's own generators.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor

from flowar import ops
from flowar.sampling.noise import mix
from flowar.system.hardware import widest_float


class Stream(IntEnum):
    """The purposes that random numbers are drawn for; each has a stream of its own."""

    VARIANT = 0  # which of an image's encodings: flips and crops
    POSTERIOR = 1  # the sample of the tokenizer's posterior
    NOISE = 2  # the end of the flow
    TIMES = 3  # the time at every scale
    LABELS = 4  # labels replaced by the null class
    CONTEXT = 5  # noise on the coarser latents that the AR transformer sees
    CONTEXT_STRENGTH = 6  # how strong that is at every scale
    TAUGHT = 7  # whether a student of jumps learns from its teacher
    JUMP_LENGTH = 8  # how far it jumps at every scale
    JUMP_PLACE = 9  # and from where


class Draws:
    """Random numbers for B images, each from a seed of its own."""

    def __init__(self, seeds: Tensor) -> None:
        """Draw from these seeds, int64 [B]."""
        self.seeds = seeds

    @staticmethod
    def for_images(seed: int, epoch: int, indices: Tensor) -> Draws:
        """The draws for images number `indices` [B] of the data set in one epoch."""
        start = mix(mix(seed) + epoch)
        return Draws(torch.tensor([mix(start + index) for index in indices.tolist()], dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.seeds)

    def to(self, device: torch.device | str) -> Draws:
        """These draws, computed on `device`: the numbers are the same."""
        return Draws(self.seeds.to(device))

    def normal(self, stream: Stream, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers [B, *shape], float32."""
        return ops.counter_normal(self.seeds, stream, math.prod(shape)).view(len(self), *shape)

    def uniform(self, stream: Stream, shape: Sequence[int] = ()) -> Tensor:
        """Uniform numbers in [0, 1) [B, *shape], float32: the normal distribution function of normal numbers."""
        normal = self.normal(stream, shape)
        return torch.special.ndtr(normal.to(widest_float(normal.device))).float().clamp(max=1 - 2**-24)
