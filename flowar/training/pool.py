"""The images of a store that a run trains on, and the order that it takes them in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flowar.sampling.noise import mix
from flowar.training.draws import Draws
from flowar.training.latent_store import LatentStore


@dataclass
class Pool:
    """Some images of a store, in an order for every epoch.

    An epoch has as many images as the pool: each of them once or, if balanced, equally many of every class, where those
    of small classes come repeatedly. An image that comes a second time has another number, larger by the size of the
    store, so that other random numbers are drawn for it.

    Attributes:
        store: the store that has them.
        images: the numbers of the images in the store, int64 [N].
        balanced: whether an epoch has equally many images of every class.
    """

    store: LatentStore
    images: Tensor
    balanced: bool = False

    @staticmethod
    def whole(store: LatentStore) -> Pool:
        """The pool of all images of a store, unbalanced."""
        return Pool(store, torch.arange(len(store)))

    def __len__(self) -> int:
        return len(self.images)

    def order(self, seed: int, epoch: int) -> Tensor:
        """The numbers [N] of the images of an epoch in order, which depend on `seed` and `epoch` alone."""
        generator = torch.Generator().manual_seed(mix(mix(seed) + epoch) % 2**63)
        numbers = self._balanced(generator) if self.balanced else self.images
        return numbers[torch.randperm(len(numbers), generator=generator)][: len(self)]

    def _balanced(self, generator: torch.Generator) -> Tensor:
        """Numbers of equally many images of every class, at least N in all."""
        labels = self.store.labels[self.images]
        classes = labels.unique()
        wanted = -(-len(self) // len(classes))
        return torch.cat(
            [repeated(self.images[labels == each], wanted, len(self.store), generator) for each in classes]
        )

    def batch(self, numbers: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """`LatentStore.batch` of the images that `numbers` [B] stand for."""
        return self.store.batch(numbers % len(self.store), draws)


def repeated(images: Tensor, wanted: int, store: int, generator: torch.Generator) -> Tensor:
    """`wanted` numbers from `images`, each once before any comes again, and larger by `store` at every repetition."""
    rounds = range(-(-wanted // len(images)))
    orders = [images[torch.randperm(len(images), generator=generator)] + number * store for number in rounds]
    return torch.cat(orders)[:wanted]


def held_out_images(labels: Tensor, share: float) -> Tensor:
    """The numbers of a `share` of the images of every class, at least one of each, from the labels [N] of all.

    They are the same for every run, so that no run has seen what another is measured by.
    """
    generator = torch.Generator().manual_seed(0)
    chosen = []
    for label in labels.unique():
        images = (labels == label).nonzero().flatten()
        count = max(1, round(share * len(images)))
        chosen.append(images[torch.randperm(len(images), generator=generator)[:count]])
    return torch.cat(chosen).sort().values


def without(images: Tensor, store: int) -> Tensor:
    """The numbers of all images of a store of size `store` but these."""
    kept = torch.ones(store, dtype=torch.bool)
    kept[images] = False
    return kept.nonzero().flatten()
