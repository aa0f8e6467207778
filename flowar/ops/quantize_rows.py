from __future__ import annotations

import torch
from torch import Tensor

from flowar.ops import backend, reference

_forward = backend.op("quantize_rows")


@backend.defined_by(reference.quantize_rows)
def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in float8_e4m3fn, each under a scale of its own. Equivalent to `reference.quantize_rows`.

    Args:
        x: [..., C], floating, C at least 1; its leading dimensions become one, M. Strided views of up to three
            dimensions (more if their leading ones merge) are read in place as long as their last one is contiguous.

    Returns:
        Values [M, C] in float8_e4m3fn and scales [M, 1] in float32, whose product is x, rounded; contiguous. A row of
        zeros stays one, and the product of a row with an element that is not finite is NaN. There is no gradient.

    Raises:
        ValueError: `x` is not floating, or C is 0.
    """
    result: tuple[Tensor, Tensor] = _forward(x)
    return result


def _fake(x: Tensor) -> tuple[Tensor, Tensor]:
    rows = x.numel() // x.shape[-1]
    return x.new_empty((rows, x.shape[-1]), dtype=torch.float8_e4m3fn), x.new_empty((rows, 1), dtype=torch.float32)


backend.register_fake("quantize_rows", _fake)
