"""Scales of a latent grid: area averages as targets, upsampled coarser scales as inputs of the AR transformer."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from flowar import ops
from flowar.config import FlowARConfig, UpsampleKind
from flowar.networks.layers import Constants
from flowar.system.tensors import check_tensor


def resampling_matrix(mode: str, size: int, new_size: int) -> Tensor:
    """PyTorch's `interpolate` along one axis as a float64 matrix [new_size, size]."""
    basis = torch.eye(size, dtype=torch.float64, device="cpu")[None, ..., None]  # one channel per basis vector
    corners = None if mode == "area" else False
    return F.interpolate(basis, size=(new_size, 1), mode=mode, align_corners=corners)[0, :, :, 0].T.contiguous()


def upsampling_matrix(kind: UpsampleKind, size: int, new_size: int, finest: int) -> Tensor:
    """One axis of the step from a scale to the next one's input; the published models pass by the finest grid."""
    if kind == "bilinear":
        return resampling_matrix("bilinear", size, new_size)
    return resampling_matrix("area", finest, new_size) @ resampling_matrix("bicubic", size, finest)


class LatentPyramid(nn.Module):
    """Linear, separable operators between the scales of `config`, each a pair of small matrices (rows, columns)."""

    def __init__(self, config: FlowARConfig) -> None:
        super().__init__()
        self.grids, self.lengths, self.channels = config.grids, config.scale_lengths, config.latent_channels
        matrices: dict[str, Tensor] = {}
        for axis, name in enumerate(("rows", "columns")):
            finest = config.grid[axis]
            sizes = [grid[axis] for grid in config.grids]
            area = [resampling_matrix("area", finest, size) for size in sizes]
            for k, (size, new_size) in enumerate(pairwise(sizes)):
                up = upsampling_matrix(config.upsample, size, new_size, finest)
                matrices[f"up_{name}_{k + 1}"] = up.float()
                matrices[f"input_{name}_{k + 1}"] = (up @ area[k]).float()
            matrices |= {f"target_{name}_{k}": matrix.float() for k, matrix in enumerate(area)}
        self.constants = Constants(**matrices)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Latents [B, c, h, w] to the targets [B, S, c] of all scales and the AR inputs [B, S - 1, c].

        Raises:
            ValueError: for other c, h or w than this model's, and for what are no floats.
        """
        check_tensor("latents", latents, ("B", self.channels, *self.grids[-1]))
        names = [f"target_{{}}_{k}" for k in range(len(self.grids))]
        names += [f"input_{{}}_{k}" for k in range(1, len(self.grids))]
        rows, columns = ([getattr(self.constants, name.format(axis)) for name in names] for axis in ("rows", "columns"))
        tokens = ops.latent_pyramid(latents, rows, columns)
        targets, inputs = tokens.split((sum(self.lengths), sum(self.lengths[1:])), 1)
        return targets, inputs

    def upsample(self, tokens: Tensor, scale: int) -> Tensor:
        """Latents [B, n_{k-1}, c] of the scale before to the AR input [B, n_k, c] of `scale` = k >= 1."""
        rows, columns = (getattr(self.constants, f"up_{axis}_{scale}") for axis in ("rows", "columns"))
        return ops.latent_resample(tokens, rows, columns)

    def upsample_each(self, tokens: Tensor) -> Tensor:
        """Tokens [B, S - n_last, c] of every scale but the last to AR inputs [B, S - 1, c] of the scale after each."""
        parts = tokens.split(list(self.lengths[:-1]), 1)
        return torch.cat([self.upsample(part, k) for k, part in enumerate(parts, 1)], 1)

    def to_grid(self, tokens: Tensor, scale: int) -> Tensor:
        """Tokens [B, n_k, c] of `scale` to a grid [B, c, h_k, w_k]."""
        return rearrange(tokens, "b (h w) c -> b c h w", h=self.grids[scale][0])
