"""The pyramid against PyTorch's own interpolation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import error

from flowar import FlowARConfig
from flowar.networks.latent_pyramid import LatentPyramid
from flowar.ops import use_reference

SHAPES: list[tuple[Any, Any]] = [(16, None), (16, (1, 4, 16)), ((4, 10), None), (7, None)]


def pyramid_of(size: Any, scales: Any, upsample: Any) -> LatentPyramid:
    return LatentPyramid(FlowARConfig(latent_channels=3, latent_size=size, scales=scales, upsample=upsample))


@pytest.mark.parametrize("upsample", ["published", "bilinear"])
@pytest.mark.parametrize(("size", "scales"), SHAPES)
@pytest.mark.usefixtures("served_by")
def test_targets_and_inputs(size: Any, scales: Any, upsample: str) -> None:
    pyramid = pyramid_of(size, scales, upsample)
    finest = pyramid.grids[-1]
    latents = torch.randn(2, 3, *finest)
    targets, inputs = pyramid(latents)
    coarse = None
    for k, grid in enumerate(pyramid.grids):
        if coarse is not None:
            if upsample == "bilinear":
                expected = F.interpolate(coarse, grid, mode="bilinear", align_corners=False)
            else:
                expected = F.interpolate(F.interpolate(coarse, finest, mode="bicubic"), grid, mode="area")
            start = sum(pyramid.lengths[1:k])
            got = inputs[:, start : start + pyramid.lengths[k]]
            assert error(pyramid.to_grid(got, k), expected) < 1e-5
            step = pyramid.upsample(coarse.flatten(2).transpose(1, 2).contiguous(), k)
            assert error(pyramid.to_grid(step, k), expected) < 1e-5
        coarse = F.interpolate(latents, grid, mode="area")
        start = sum(pyramid.lengths[:k])
        assert error(pyramid.to_grid(targets[:, start : start + pyramid.lengths[k]], k), coarse) < 1e-5
    assert torch.equal(pyramid.to_grid(targets[:, -pyramid.lengths[-1] :], len(pyramid.grids) - 1), latents)


@pytest.mark.parametrize("upsample", ["published", "bilinear"])
@pytest.mark.parametrize(("size", "scales"), SHAPES)
def test_a_constant_image_stays_constant(size: Any, scales: Any, upsample: str) -> None:
    pyramid = pyramid_of(size, scales, upsample)
    with use_reference():
        for part in pyramid(torch.full((1, 3, *pyramid.grids[-1]), 2.5)):
            torch.testing.assert_close(part, torch.full_like(part, 2.5))
