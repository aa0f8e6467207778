"""Dropout. On a CPU torch draws one number for every element; one draw here serves four."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 2**16  # of a quarter of a draw


def dropout(x: Tensor, probability: float) -> Tensor:
    """Zeros in the place of elements of x with `probability`, and what remains divided by `1 - probability`.

    Numbers come from torch's default generator of the device. On a CPU the probability is rounded to 16 bits; the
    expectation is x all the same.

    Raises:
        ValueError: if the probability is not in [0, 1).
    """
    if not 0 <= probability < 1:
        raise ValueError(f"dropout: expected a probability in [0, 1), got {probability}")
    if probability == 0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, probability)
    levels = min(round(probability * LEVELS), LEVELS - 1)
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    drawn = draws.view(torch.int16)[: x.numel()].view(x.shape)
    return x.masked_fill(drawn < levels - LEVELS // 2, 0).mul_(LEVELS / (LEVELS - levels))
