from __future__ import annotations

import torch
from torch import Tensor

from flowar.ops import backend, reference

_forward = backend.op("checked_copy")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def checked_copy(out: Tensor, source: Tensor) -> Tensor:
    """Copy `source` into `out`, and sum its bits on the way. Equivalent to `reference.checked_copy`.

    The compiled op reads and writes each once, on the CPU, where files are loaded; tensors elsewhere, of other dtypes
    or with gaps are copied as the definition says.

    Args:
        out: of the shape of `source`, of any dtype that holds floats; changed in place.
        source: floating.

    Returns:
        int64 [R + W + 1]: a sum modulo 2**64 for each of the R whole runs of 512 words of 64 bits in the source; the W
        words behind the last run, filled up with zeros; and 1 if an element is not finite, else 0.

    Raises:
        RuntimeError: shapes that differ.
    """
    served = plain(out) and plain(source) and not backend.reference_active()
    sums: Tensor = (_forward if served else reference.checked_copy)(out, source)
    return sums


def plain(tensor: Tensor) -> bool:
    """Whether the compiled op takes a tensor."""
    return tensor.is_cpu and tensor.dtype in DTYPES and tensor.is_contiguous()


def _fake(out: Tensor, source: Tensor) -> Tensor:
    size, run = source.numel() * source.itemsize, reference.RUN * reference.WORD
    words = -(-(size % run) // reference.WORD)  # behind the last whole run
    return source.new_empty(size // run + words + 1, dtype=torch.int64)


backend.register_fake("checked_copy", _fake)
