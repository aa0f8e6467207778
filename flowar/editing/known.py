"""Pins of every scale, made of what is known of a picture."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from flowar.model import FlowAR
from flowar.sampling.pins import Pins
from flowar.system.arguments import check_integer
from flowar.system.transfer import to_device


def pins_where(model: FlowAR, latents: Tensor, known: Tensor) -> Pins:
    """The pins of latents [B, c, h, w] where `known` [B or 1, 1, h, w] is 1.

    A token of a coarser scale is the mean of its known latents, pinned by their share of it. A token without known
    latents is free, so nothing that is to be replaced shows through. Masks are on the device of `known`: the host, if
    nobody is to wait for a GPU.
    """
    known = (known == 1).to(latents.dtype)
    kept = torch.where(to_device(known, latents.device) == 1, latents, 0.0)
    tokens, masks = [], []
    for grid in model.config.grids:
        mask = F.adaptive_avg_pool2d(known, grid)
        share = to_device(mask, latents.device)
        mean = F.adaptive_avg_pool2d(kept, grid) / share.clamp(min=torch.finfo(share.dtype).tiny)
        tokens.append(rearrange(torch.where(share > 0, mean, 0.0), "b c h w -> b (h w) c"))
        masks.append(rearrange(mask, "b c h w -> b (h w) c"))
    return Pins(tokens, masks)


def pins_of_known(pins: Pins) -> Pins:
    """The pins that hold a token fully, without those that draw it to the mean of a part."""
    return Pins(pins.tokens, [(mask == 1).to(mask) for mask in pins.masks])


def with_mean(pins: Pins, latents: Tensor) -> Pins:
    """The pins with the coarsest scale, which is one token, held at the mean of latents [B, c, h, w].

    The known part of a picture has another mean than the whole, and all finer scales follow from that token.
    """
    mean = latents.mean((2, 3))[:, None].to(pins.tokens[0])
    tokens = [each.expand(len(mean), -1, -1) for each in pins.tokens[1:]]
    return Pins([mean, *tokens], [torch.ones_like(pins.masks[0]), *pins.masks[1:]])


def pins_of_scales(model: FlowAR, latents: Tensor, scales: int) -> Pins:
    """The pins of the first `scales` of latents [B, c, h, w], everywhere.

    Raises:
        ValueError: unless that leaves at least one scale to sample.
    """
    lengths = model.config.scale_lengths
    scales = check_integer("keep_scales", scales, 0, len(lengths) - 1)
    targets, _ = model.pyramid(latents)
    masks = [torch.full((1, n, 1), float(k < scales)) for k, n in enumerate(lengths)]
    return Pins(targets.split(list(lengths), 1), masks)
