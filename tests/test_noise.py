"""Noise that depends on the seed alone."""

from __future__ import annotations

import pytest
import torch

from flowar.sampling.noise import image_seeds, mix, scale_noise

CPU = torch.device("cpu")
LENGTHS = (1, 4, 16, 64, 256)


@pytest.mark.usefixtures("served_by")
def test_image_has_the_same_bits_in_any_batch() -> None:
    full = scale_noise(5, 6, LENGTHS, 3, CPU)
    for batch in (1, 2, 5):
        smaller = scale_noise(5, batch, LENGTHS, 3, CPU)
        assert all(torch.equal(part, whole[:batch]) for part, whole in zip(smaller, full, strict=True))
    alone = scale_noise([9, 5], 2, LENGTHS, 3, CPU)
    assert all(torch.equal(part[1], whole[0]) for part, whole in zip(alone, full, strict=True))


@pytest.mark.usefixtures("served_by")
def test_images_scales_and_seeds_are_independent_standard_normals() -> None:
    noise = scale_noise(0, 8, LENGTHS, 16, CPU)
    assert [list(part.shape) for part in noise] == [[8, n, 16] for n in LENGTHS]
    assert all(part.dtype == torch.float32 for part in noise)
    values = noise[-1].flatten()  # 32768 of them
    assert abs(values.mean()) < 0.03
    assert abs(values.std() - 1) < 0.02
    assert abs(values.pow(4).mean() - 3) < 0.3
    rows = torch.cat((noise[-1].flatten(1), scale_noise(1, 8, LENGTHS, 16, CPU)[-1].flatten(1)))
    correlations = torch.corrcoef(rows) - torch.eye(16)
    assert correlations.abs().max() < 0.08
    scales = torch.stack([part.flatten(1)[:, :16].flatten() for part in noise])
    assert (torch.corrcoef(scales) - torch.eye(5)).abs().max() < 0.4


def test_seeds() -> None:
    assert len(set(image_seeds(0, 1000).tolist()) | set(image_seeds(1, 1000).tolist())) == 2000
    assert image_seeds([4, 4, -1, 2**70], 4)[0] == image_seeds(4, 1)[0]
    # The first outputs of the published splitmix64 generator, seeded with 0: its state is a multiple of the increment.
    first = [mix(state) % 2**64 for state in (0, 0x9E3779B97F4A7C15)]
    assert first == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


@pytest.mark.parametrize("seed", [[1, 2], [], [1.0, 2.0, 3.0], "abc", None, 0.5])
def test_bad_seeds(seed: object) -> None:
    with pytest.raises(ValueError, match=r"seed: expected one integer or 3 \(one per image\), got"):
        image_seeds(seed, 3)  # type: ignore[arg-type]
