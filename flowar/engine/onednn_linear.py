"""Linear layers in oneDNN's own memory layout: for sampling on a CPU, where a product otherwise reorders its weights
at every call.

On processors whose vector units MKL leaves unused (AMD's, in float32) such products are twice as fast, and everywhere
the ones of 8 to 100 rows are, which the small scales have. The layout has no gradient.
"""

from __future__ import annotations

import copy
import functools
import itertools
from typing import Any, TypeGuard, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowar.networks.layers import is_plain, linear_of, replace_leaves

Module = TypeVar("Module", bound=nn.Module)

TYPICAL_ROWS = 512  # of one image at the last scale under guidance; oneDNN chooses one layout, which serves any number


class PrepackedLinear(nn.Module):
    """A linear layer for inference: x [..., in_features] to [..., out_features], both of its own dtype.

    Nothing is lost: `weight` is the matrix that was packed, bit for bit, and so is what `state_dict` holds.

    Attributes:
        number: of the packing; layers of the same number have the same weight.
    """

    _numbers = itertools.count()

    def __init__(self, weight: Tensor, bias: nn.Parameter | None) -> None:
        """weight [out_features, in_features] of a dtype that `supported` names, bias [out_features]."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.bias = bias
        self.packed, self.number = reordered(weight), next(self._numbers)

    @property
    def weight(self) -> Tensor:
        """A plain copy of the weight [out_features, in_features]."""
        with torch.no_grad():
            return self.packed.to_dense()

    @property
    def dtype(self) -> torch.dtype:
        return self.packed.dtype

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad and torch.is_grad_enabled():
            raise RuntimeError("prepacked model: expected torch.no_grad(), or unpack() before training")
        return torch.ops.mkldnn._linear_pointwise(x.contiguous(), self.packed, self.bias, "none", [], "")

    def __deepcopy__(self, memo: dict[int, Any]) -> PrepackedLinear:
        """A layer of the same packed matrix, which nothing changes."""
        clone = PrepackedLinear.__new__(PrepackedLinear)
        memo |= {id(self): clone, id(self.packed): self.packed}
        clone.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return clone

    def __getstate__(self) -> dict[str, Any]:
        """What pickles hold: the plain weight in the place of the packed one."""
        return self.__dict__ | {"packed": self.weight}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state | {"packed": reordered(state["packed"]), "number": next(self._numbers)})  # type: ignore[no-untyped-call]

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[prefix + "weight"] = self.weight
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _apply(self, fn: Any, recurse: bool = True) -> PrepackedLinear:
        raise RuntimeError("prepacked layer: expected unpack() before a change of device or dtype")


def is_matrix(layer: nn.Module) -> TypeGuard[nn.Linear | PrepackedLinear]:
    """Whether all that a layer does is in its weight and bias."""
    return is_plain(layer, nn.Linear) or is_plain(layer, PrepackedLinear)


def reordered(weight: Tensor) -> Tensor:
    """A plain weight [out_features, in_features] in oneDNN's layout."""
    with torch.inference_mode(False), torch.no_grad():
        packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), TYPICAL_ROWS)
    return packed


@functools.cache
def supported(dtype: torch.dtype) -> bool:
    """Whether this build of torch, on this processor, multiplies by prepacked weights of `dtype`, and rightly."""
    x, weight = torch.linspace(-1, 1, 64).view(4, 16).to(dtype), torch.linspace(-2, 2, 512).view(32, 16).to(dtype)
    try:
        out = PrepackedLinear(weight, None)(x)
    except (RuntimeError, NotImplementedError, AttributeError):  # no such processor, no such operator
        return False
    return torch.allclose(out.float(), F.linear(x.float(), weight.float()), rtol=torch.finfo(dtype).eps, atol=1e-5)


def prepack(module: Module) -> Module:
    """Replace the linear layers inside `module`, in place; where there is no such layout for them, leave them.

    Each weight is let go of as soon as it is packed: all of it never takes the memory of both.
    """

    def prepacked(leaf: nn.Module) -> nn.Module:
        if is_plain(leaf, nn.Linear) and leaf.weight.device.type == "cpu" and supported(leaf.weight.dtype):
            return PrepackedLinear(leaf.weight, leaf.bias)
        return leaf

    replace_leaves(module, prepacked)
    return module


def unpack(module: Module) -> Module:
    """Undo `prepack`, in place: the same weights, as new parameters."""

    def plain(leaf: nn.Module) -> nn.Module:
        if isinstance(leaf, PrepackedLinear):
            return linear_of(nn.Parameter(leaf.weight), leaf.bias).train(leaf.training)
        return leaf

    replace_leaves(module, plain)
    return module


def unpacked(module: Module) -> Module:
    """`module` itself if nothing in it is prepacked; otherwise a copy with plain layers, which shares all the rest."""
    if not any(isinstance(each, PrepackedLinear) for each in module.modules()):
        return module
    shared: dict[int, Any] = {id(each): each for each in (*module.parameters(), *module.buffers())}
    return unpack(copy.deepcopy(module, shared))
