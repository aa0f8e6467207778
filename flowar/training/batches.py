"""The batches of a run: which images a step takes, and a thread that fetches them during the step before."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from torch import Tensor

from flowar.system.ranks import Ranks
from flowar.training.draws import Draws
from flowar.training.pool import Pool
from flowar.training.step import Batch

AHEAD = 2  # batches that are fetched before they are asked for


def batches(pool: Pool, size: int, seed: int, first: int, last: int, ranks: Ranks) -> Iterator[Batch]:
    """Yield this rank's part of batches number `first` to `last`, which a thread reads ahead.

    Raises:
        DataError: for latents that cannot be trained on.
    """
    order = image_order(pool, size, seed, first, last)

    def fetch(epoch: int, numbers: Tensor) -> Batch:
        own = ranks.share(numbers)
        draws = Draws.for_images(seed, epoch, own)
        return Batch(*pool.batch(own, draws), draws)

    with ThreadPoolExecutor(1, "batches") as thread:
        waiting = deque(thread.submit(fetch, *each) for each in islice(order, AHEAD))
        while waiting:
            batch = waiting.popleft().result()
            waiting.extend(thread.submit(fetch, *each) for each in islice(order, 1))
            yield batch


def image_order(pool: Pool, size: int, seed: int, first: int, last: int) -> Iterator[tuple[int, Tensor]]:
    """The epoch and the image numbers [size] of batches `first` to `last`.

    Images that do not fill the last batch of an epoch are left out.
    """
    per_epoch = len(pool) // size
    for epoch in range(first // per_epoch, -(-last // per_epoch)):
        order = pool.order(seed, epoch)
        start, stop = max(first - epoch * per_epoch, 0), min(last - epoch * per_epoch, per_epoch)
        for index in range(start, stop):
            yield epoch, order[index * size : (index + 1) * size]
