"""What is known of a picture, as pins of every scale."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from flowar.model import FlowAR
from flowar.sampling.pins import Pins
from flowar.system.transfer import to_device


def pins_where(model: FlowAR, latents: Tensor, known: Tensor) -> Pins:
    """Pins of latents [B, c, h, w] where `known` [B or 1, 1, h, w] is 1.

    A token of a coarser scale is the mean of what is known below it, and pinned by the share of it that is: what is to
    be replaced never shows through, and a token without anything known is free. Masks are where `known` is: on the
    host, if nobody is to wait for a GPU.
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
    """The pins that hold, without those that only draw a token to the mean of a part of it."""
    return Pins(pins.tokens, [(mask == 1).to(mask) for mask in pins.masks])


def with_mean(pins: Pins, latents: Tensor) -> Pins:
    """The pins with the coarsest scale, which is one token, held at the mean of latents [B, c, h, w].

    A part of a picture is known to have another mean than the whole, and all finer scales follow from that token.
    """
    mean = latents.mean((2, 3))[:, None].to(pins.tokens[0])
    tokens = [each.expand(len(mean), -1, -1) for each in pins.tokens[1:]]
    return Pins([mean, *tokens], [torch.ones_like(pins.masks[0]), *pins.masks[1:]])


def pins_of_scales(model: FlowAR, latents: Tensor, scales: int) -> Pins:
    """Pins of the first `scales` of latents [B, c, h, w], everywhere.

    Raises:
        ValueError: unless that leaves at least one scale to sample.
    """
    lengths = model.config.scale_lengths
    if not 0 <= scales < len(lengths):
        raise ValueError(f"keep_scales: expected an integer from 0 to {len(lengths) - 1}, got {scales}")
    targets, _ = model.pyramid(latents)
    masks = [torch.full((1, n, 1), float(k < scales)) for k, n in enumerate(lengths)]
    return Pins(targets.split(list(lengths), 1), masks)
