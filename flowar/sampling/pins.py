"""Pins: latents that sampling is to arrive at in some places. Editing is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import takewhile

import torch
from torch import Tensor

from flowar.system.arguments import check_each, check_type
from flowar.system.tensors import check_tensor
from flowar.system.transfer import to_device


@dataclass(frozen=True)
class Pins:
    """Known latents of every scale, and where they hold.

    At time t of its ODE the state is drawn to `(1 - t) * tokens + t * noise`, the straight path to what is known from
    the very noise that the state began as; so what is free sees at every step what belongs beside it.

    Attributes:
        tokens: one a scale, [B, n_k, c].
        masks: one a scale, [B or 1, n_k, 1] in [0, 1]: 1 pins, 0 leaves free. What lies between mixes: the
            result is that share of the token, as a part of a picture tells that share of its mean. Best on the host,
            which reads them.
    """

    tokens: Sequence[Tensor]
    masks: Sequence[Tensor]

    @cached_property
    def held(self) -> int:
        """How many of the first scales are pinned everywhere: they need no ODE."""
        return sum(1 for _ in takewhile(lambda mask: bool((mask == 1).all()), self.masks))

    def to(self, device: torch.device, dtype: torch.dtype) -> Pins:
        """These pins on `device` in `dtype`, with the masks of one image repeated for all."""
        tokens = [to_device(each, device, dtype) for each in self.tokens]
        masks = [to_device(each, device, dtype) for each in self.masks]
        moved = Pins(tokens, [each.expand(len(own), -1, -1) for each, own in zip(masks, tokens, strict=True)])
        vars(moved)["held"] = self.held  # read here, where that may be without waiting for a GPU
        return moved


def check_pins(pins: Pins, batch: int, lengths: Sequence[int], channels: int) -> Pins:
    """`pins`, if they are for `batch` images of so many tokens a scale.

    Raises:
        ValueError: for other shapes, masks outside [0, 1], and for what are no tensors of floats.
    """
    check_type("pins", pins, Pins, "Pins")
    for name, parts in (("tokens", pins.tokens), ("masks", pins.masks)):
        check_each(f"pins.{name}", parts, partial(check_tensor, shape=None))
    shapes, expected = [list(each.shape) for each in pins.tokens], [[batch, n, channels] for n in lengths]
    if shapes != expected:
        raise ValueError(f"pins: expected tokens of shapes {expected}, got {shapes}")
    masks = [list(mask.shape) for mask in pins.masks]
    fitting = [shape in ([batch, n, 1], [1, n, 1]) for shape, n in zip(masks, lengths, strict=False)]
    if len(masks) != len(lengths) or not all(fitting):
        raise ValueError(f"pins: expected masks of shapes {[[batch, n, 1] for n in lengths]}, got {masks}")
    low, high = (float(edge) for edge in torch.aminmax(torch.cat([mask.flatten().float() for mask in pins.masks])))
    if not 0 <= low <= high <= 1:
        raise ValueError(f"pins: expected masks in [0, 1], got values from {low:g} to {high:g}")
    return pins


def pin(state: Tensor, noise: Tensor, tokens: Tensor, mask: Tensor, before: float, t: float) -> None:
    """Draw the state [B, n, c], led from time `before` to t, to what is known, in place, fully where the mask is 1.

    Elsewhere as far as keeps a state that goes straight to something else on the straight path to the mean of both, in
    however many steps: its share of the known was `mask * (1 - before)`, and is to be `mask * (1 - t)`.
    """
    share = mask * (before - t) / ((1 - t) - mask * (1 - before))
    state.lerp_(torch.lerp(tokens, noise, t), torch.where(mask == 1, mask, share))
