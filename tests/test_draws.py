"""The random numbers of training: the same wherever an image turns up, and distributed as they say."""

from __future__ import annotations

import pytest
import torch

from flowar.training.draws import Draws, Stream


def test_an_image_draws_the_same_in_any_batch() -> None:
    batch = Draws.for_images(7, 3, torch.tensor([4, 9, 1]))
    alone = Draws.for_images(7, 3, torch.tensor([9]))
    assert torch.equal(batch.normal(Stream.NOISE, (5, 2))[1:2], alone.normal(Stream.NOISE, (5, 2)))
    assert torch.equal(batch.uniform(Stream.TIMES, (4,))[1:2], alone.uniform(Stream.TIMES, (4,)))


def test_seed_epoch_image_and_stream_all_matter() -> None:
    index = torch.tensor([0])
    drawn = [
        Draws.for_images(seed, epoch, index + image).normal(stream, (8,))
        for seed, epoch, image, stream in [
            (0, 0, 0, Stream.NOISE),
            (1, 0, 0, Stream.NOISE),
            (0, 1, 0, Stream.NOISE),
            (0, 0, 1, Stream.NOISE),
            (0, 0, 0, Stream.POSTERIOR),
        ]
    ]
    assert all(not torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])


def test_uniform_numbers() -> None:
    drawn = Draws.for_images(0, 0, torch.arange(200)).uniform(Stream.TIMES, (50,)).flatten().sort().values
    assert drawn[0] >= 0
    assert drawn[-1] < 1
    expected = (torch.arange(len(drawn)) + 0.5) / len(drawn)
    assert (drawn - expected).abs().max() < 1.63 / len(drawn) ** 0.5  # Kolmogorov-Smirnov at 1 %


def test_one_number_an_image() -> None:
    assert Draws.for_images(0, 0, torch.arange(3)).uniform(Stream.VARIANT).shape == (3,)
    assert Draws(torch.zeros(0, dtype=torch.int64)).normal(Stream.NOISE, (2,)).shape == pytest.approx((0, 2))
