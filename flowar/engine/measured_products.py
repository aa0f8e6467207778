"""Linear layers whose product is computed in the way that is fastest for its shape on this GPU.

PyTorch's way (the default); cuBLASLt, which PyTorch takes by itself for layers with a bias only; or split-K: the sum
over parts of the inputs as one batched product, which fills a GPU that the few rows of one image leave empty.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowar.networks.layers import is_plain, replace_leaves
from flowar.system.autotune import Candidates, active_tuner

MIN_ROWS = 128  # of the last scales; products of fewer rows take the time of reading their weights, in any way
PARTS = (2, 4)  # of split-K

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # x [M, K], weight [N, K], bias [N] to [M, N]


def by_cublaslt(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A product with a bias of zeros, where there is none: PyTorch gives those to cuBLASLt."""
    return F.linear(x, weight, weight.new_zeros(len(weight)) if bias is None else bias)


def split_k(parts: int, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The sum over `parts` of K, float32 at least."""
    columns = x.unflatten(1, (parts, -1)).transpose(0, 1)  # [parts, M, K / parts]
    rows = weight.unflatten(1, (parts, -1)).permute(1, 2, 0)  # [parts, K / parts, N]
    wide = {"out_dtype": torch.float32} if x.element_size() == 2 else {}
    total = torch.bmm(columns, rows, **wide).sum(0)  # type: ignore[call-overload]
    return (total if bias is None else total + bias).to(x.dtype)


PRODUCTS: dict[str, Product] = {
    "torch": F.linear,
    "cublaslt": by_cublaslt,
    **{f"split-k {parts}": partial(split_k, parts) for parts in PARTS},
}


def candidates(x: Tensor, weight: Tensor, bias: Tensor | None) -> Candidates:
    """The ways to compute one product; cuBLASLt is PyTorch's way where there is a bias."""
    names = [name for name in PRODUCTS if name != "cublaslt" or bias is None]
    return {name: partial(PRODUCTS[name], x, weight, bias) for name in names}


class MeasuredLinear(nn.Linear):
    """A linear layer, x [..., K] to [..., N]; wide products go the way that the active tuner has found."""

    def forward(self, x: Tensor) -> Tensor:
        rows, tuner = x.shape[:-1].numel(), active_tuner()
        if tuner is None or rows < MIN_ROWS:
            return F.linear(x, self.weight, self.bias)
        flat, bias = x.reshape(rows, -1), "with bias" if self.bias is not None else "without bias"
        call = f"product {str(x.dtype).removeprefix('torch.')} {rows} x {self.in_features} x {self.out_features} {bias}"
        name = tuner.fastest(call, lambda: candidates(flat, self.weight, self.bias))
        return PRODUCTS[name](flat, self.weight, self.bias).reshape(*x.shape[:-1], -1)


def measured(linear: nn.Linear) -> MeasuredLinear:
    """A layer of the same weights."""
    layer = MeasuredLinear(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
    layer.weight = linear.weight
    layer.register_parameter("bias", linear.bias)
    return layer


def measure_products(transformer: nn.Module) -> None:
    """Replace the linear layers inside `transformer`, in place."""

    replace_leaves(transformer, lambda leaf: measured(leaf) if is_plain(leaf, nn.Linear) else leaf)
