"""Which images a step takes, and fetching them while the step before is at work."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import torch
from torch import Tensor

from flowar.noise import mix
from flowar.training.draws import Draws
from flowar.training.latent_store import LatentStore
from flowar.training.ranks import Ranks
from flowar.training.step import Batch

AHEAD = 2  # batches that are fetched before they are asked for


def batches(data: LatentStore, size: int, seed: int, first: int, last: int, ranks: Ranks) -> Iterator[Batch]:
    """This rank's part of batches number `first` to `last`, read ahead by a thread.

    Raises:
        DataError: for latents that cannot be trained on.
    """
    order = image_order(len(data), size, seed, first, last)

    def fetch(epoch: int, indices: Tensor) -> Batch:
        own = ranks.share(indices)
        draws = Draws.of(seed, epoch, own)
        return Batch(*data.batch(own, draws), draws)

    with ThreadPoolExecutor(1, "batches") as thread:
        waiting = deque(thread.submit(fetch, *each) for each in islice(order, AHEAD))
        while waiting:
            batch = waiting.popleft().result()
            waiting.extend(thread.submit(fetch, *each) for each in islice(order, 1))
            yield batch


def image_order(images: int, size: int, seed: int, first: int, last: int) -> Iterator[tuple[int, Tensor]]:
    """Epoch and image numbers [size] of batches `first` to `last`.

    The order of an epoch depends on the seed and its number alone; the images that do not fill a batch are left out.
    """
    per_epoch = images // size
    for epoch in range(first // per_epoch, -(-last // per_epoch)):
        order = torch.randperm(images, generator=torch.Generator().manual_seed(mix(mix(seed) + epoch) % 2**63))
        start, stop = max(first - epoch * per_epoch, 0), min(last - epoch * per_epoch, per_epoch)
        for index in range(start, stop):
            yield epoch, order[index * size : (index + 1) * size]
