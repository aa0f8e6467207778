"""Position tables brought to other grids."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import SMALL
from torch import Tensor

from flowar import FlowAR, FlowARConfig
from flowar.config import Grid
from flowar.training.positions import POSITIONS, interpolate_positions, nearest_scale


def grids(size: Any, scales: Any = None) -> tuple[Grid, ...]:
    return FlowARConfig(latent_size=size, scales=scales).grids


def by_scale(table: Tensor, of: tuple[Grid, ...]) -> list[Tensor]:
    """The tables [h, w, D] of the scales of [1, S, D]."""
    parts = table[0].split([height * width for height, width in of])
    return [part.unflatten(0, grid) for part, grid in zip(parts, of, strict=True)]


def ramps(of: tuple[Grid, ...]) -> Tensor:
    """Channel 0 tells the row and channel 1 the column of a token's centre, from 0 to 1 over the image."""
    centres = [[(torch.arange(side) + 0.5) / side for side in grid] for grid in of]
    return torch.cat([torch.cartesian_prod(*each) for each in centres])[None]


@pytest.mark.parametrize("size", [1, 7, 16, (3, 5), (8, 2)])
def test_the_same_grids_keep_their_tables(size: Any) -> None:
    table = torch.randn(1, sum(height * width for height, width in grids(size)), 6)
    assert torch.equal(interpolate_positions(table, grids(size), grids(size)), table)


@pytest.mark.parametrize("size", [32, 8, 7, (16, 32), (5, 3)])
def test_constant_tables_stay_constant(size: Any) -> None:
    got = interpolate_positions(torch.full((1, 341, 2), 1.5), grids(16), grids(size))
    torch.testing.assert_close(got, torch.full((1, sum(height * width for height, width in grids(size)), 2), 1.5))


@pytest.mark.parametrize("size", [32, (16, 32), (32, 16), (24, 40), 8])
def test_ramps_stay_ramps(size: Any) -> None:
    """At every scale, away from the border; rows stay rows and columns columns. Shrunk by a fraction, up to 0.001."""
    new = grids(size)
    got, expected = (
        by_scale(each, new) for each in (interpolate_positions(ramps(grids(16)), grids(16), new), ramps(new))
    )
    for k, (height, width) in enumerate(new):
        inside = slice(height // 4, -(-height * 3 // 4)), slice(width // 4, -(-width * 3 // 4))
        if min(height, width) >= 8:
            torch.testing.assert_close(got[k][inside], expected[k][inside], atol=1e-3, rtol=0)
    assert torch.equal(got[0], expected[0])


def test_which_scale_a_scale_begins_with() -> None:
    def chosen(old: tuple[Grid, ...], new: tuple[Grid, ...]) -> list[int]:
        return [nearest_scale(number, grid, old) for number, grid in enumerate(new)]

    assert chosen(grids(16), grids(32)) == [0, 1, 2, 3, 4, 4]
    assert chosen(grids(32), grids(16)) == [0, 1, 2, 3, 4]
    assert chosen(grids(16), grids(16, [1, 4, 16])) == [0, 2, 4]
    assert chosen(grids(16), grids((16, 32))) == [0, 1, 2, 3, 4, 4]  # 1x2 like 2x2; of 2x4, 4x8, 8x16 the finer one
    assert chosen(grids(16), grids(7)) == [0, 1, 2, 3]
    assert chosen(grids(1), grids(4)) == [0, 0, 0]


@pytest.mark.parametrize("flow_block", ["attn_mlp", "attn_cross_mlp"])
def test_no_other_weight_depends_on_the_grid(flow_block: Any) -> None:
    shapes = []
    for size in (4, (3, 8)):
        with torch.device("meta"):
            model = FlowAR(replace(SMALL, latent_size=size, scales=None, flow_block=flow_block))
        shapes.append({name: weight.shape for name, weight in model.state_dict().items()})
    assert {name for name, shape in shapes[0].items() if shapes[1][name] != shape} == set(POSITIONS)
