"""From a seed, generators or nothing to one seed per image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from flowar.errors import FlowARError, shown
from flowar.sampling.noise import single_seeds

SEEDS = 2**40  # drawn ones are below: few digits to copy, and so many that no two images have the same

Generators = torch.Generator | Sequence[torch.Generator]


def image_seeds_of(seed: int | Sequence[int] | None, generator: Generators | None, count: int) -> list[int]:
    """One seed for each of `count` images, any of which draws its image alone.

    Args:
        seed: one for all, see `flowar.sampling.noise.single_seeds`, or one per image.
        generator: instead of a seed: one generator, from which a seed per image is drawn, or a list of one per image.
            Without both, torch's own, so that `torch.manual_seed` before the call fixes what is drawn.
        count: the number of images.

    Raises:
        FlowARError: for both, generators of another number, and what is no generator.
        ValueError: unless `seed` is an integer or one per image.
    """
    if seed is not None:
        if generator is not None:
            raise FlowARError("generator: expected it or a seed, got both")
        return single_seeds(seed, count)
    if generator is None:
        return drawn(torch.default_generator, count)
    several: list[Any] = [*generator] if isinstance(generator, (list, tuple)) else [generator]
    for each in several:
        if not isinstance(each, torch.Generator):
            raise FlowARError(f"generator: expected a torch.Generator or a list of them, got {shown(each)}")
    if len(several) == 1:
        return drawn(several[0], count)
    if len(several) != count:
        raise FlowARError(f"generator: expected one or {count} (one per image), got {len(several)}")
    return [drawn(each, 1)[0] for each in several]


def drawn(generator: torch.Generator, count: int) -> list[int]:
    """So many seeds from a generator, which goes on by as many numbers."""
    seeds: list[int] = torch.randint(SEEDS, (count,), generator=generator, device=generator.device).tolist()
    return seeds
