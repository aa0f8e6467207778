"""A copy of the transformers that is fit for inference: exact rewritings of their weights.

`exact` are the model's own layers, from which products of weights are taken before they are rounded. Layers of other
classes than this package's, and those with hooks, are not rewritten: they are called as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowar.engine.onednn_linear import PrepackedLinear, is_matrix
from flowar.networks.attention import CrossAttention, SelfAttention
from flowar.networks.flow_transformer import AttnCrossMLPBlock, AttnMLPBlock, FlowTransformer
from flowar.networks.layers import GEGLU, ResidualStream, RMSNorm, is_plain, linear_of

Packable = TypeVar("Packable", bound=nn.Module)

HIDDEN_MULTIPLE = 64  # hidden widths the GEMM kernels like; 2730 is not even a multiple of 8


def pack(module: Packable, dtype: torch.dtype) -> Packable:
    """A copy of `module` for inference in `dtype`: parameters cast, or shared where the dtype is theirs."""
    shared: dict[int, Any] = {id(each): frozen(each.detach().to(dtype)) for each in module.parameters()}
    for layer in module.modules():
        if isinstance(layer, PrepackedLinear) and layer.dtype != dtype:
            bias = None if layer.bias is None else shared[id(layer.bias)]
            shared[id(layer)] = linear_of(frozen(layer.weight.to(dtype)), bias)
    packed = copy.deepcopy(module, shared).eval()
    for layer in packed.modules():
        if isinstance(layer, AttnCrossMLPBlock):
            layer.constants.one = layer.constants.one.to(dtype)
    return packed


def frozen(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight, requires_grad=False)


def wide(weight: Tensor) -> Tensor:
    """In at least float32."""
    return weight.detach().to(torch.promote_types(weight.dtype, torch.float32))


def pad_hidden(layer: GEGLU) -> None:
    """Pad the hidden width with zeros, in place: gelu(0) * 0 = 0, so the output does not change."""
    if not is_plain(layer.fc1, nn.Linear) or not is_plain(layer.fc2, nn.Linear):  # oneDNN pads by itself
        return
    hidden = layer.fc2.in_features
    padding = -hidden % HIDDEN_MULTIPLE
    if padding == 0:
        return
    halves = layer.fc1.weight.view(2, hidden, -1)
    layer.fc1.weight = frozen(F.pad(halves, (0, 0, 0, padding)).flatten(0, 1))
    layer.fc1.bias = frozen(F.pad(layer.fc1.bias.view(2, hidden), (0, padding)).flatten())
    layer.fc2.weight = frozen(F.pad(layer.fc2.weight, (0, padding)))
    layer.fc1.out_features, layer.fc2.in_features = 2 * (hidden + padding), hidden + padding


class FoldedNorm(nn.Module):
    """An RMS norm whose weight went into the linear layer behind it: what is left joins the addition before it."""

    zero: Tensor

    def __init__(self, norm: RMSNorm) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros_like(norm.weight))

    def forward(self, x: Tensor) -> Tensor:
        return self.after(ResidualStream(x))[1]

    def after(self, stream: ResidualStream) -> tuple[ResidualStream, Tensor]:
        return stream.modulated(self.zero, self.zero)


def fold_norms(packed: FlowTransformer, exact: FlowTransformer) -> None:
    """Multiply the weights of both norms of cross-attention into the only layers that read them, in place.

    Not into prepacked layers, which are shared with the model: that would take a second copy.
    """
    for block, exact_block in zip(packed.blocks, exact.blocks, strict=True):
        if is_plain(block, AttnCrossMLPBlock) and is_plain(block.cross, CrossAttention):
            for norm, name in (("cross_norm", "q"), ("condition_norm", "kv")):
                linear: nn.Module = getattr(block.cross, name)
                if is_plain(linear, nn.Linear) and is_plain(getattr(block, norm), RMSNorm):
                    weight = wide(getattr(exact_block.cross, name).weight) * wide(getattr(exact_block, norm).weight)
                    setattr(block.cross, name, linear_of(frozen(weight.to(linear.weight.dtype))))
                    setattr(block, norm, FoldedNorm(getattr(block, norm)))


class SingleTokenAttention(nn.Module):
    """Self-attention of one token: its value, projected. One linear map; queries and keys do not matter."""

    def __init__(self, packed: SelfAttention, exact: SelfAttention) -> None:
        super().__init__()
        dtype, width = packed.proj.bias.dtype, packed.proj.out_features
        projection, value = wide(exact.proj.weight), wide(exact.qkv.weight[2 * width :])
        self.weight = frozen((projection @ value).to(dtype))
        self.bias = packed.proj.bias

    def forward(self, x: Tensor, rotation: Tensor, lengths: Sequence[int]) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class SingleTokenCrossAttention(nn.Module):
    """Cross-attention to one condition: the same at every step."""

    def __init__(self, packed: CrossAttention) -> None:
        super().__init__()
        self.kv = packed.kv
        self.proj = packed.proj

    def keys_values(self, z: Tensor, rotation: Tensor) -> tuple[Tensor]:
        """z [B, 1, D] to the output [B, 1, W]."""
        return (self.proj(self.kv(z).chunk(2, -1)[1]),)

    def forward(self, x: Tensor, known: tuple[Tensor], rotation: Tensor, lengths: Sequence[int]) -> Tensor:
        return known[0]


def single_token(packed: FlowTransformer, exact: FlowTransformer) -> FlowTransformer:
    """The flow transformer for the scale of one token: `packed`, whose weights it shares, with simpler attention."""
    pairs = zip(packed.blocks, exact.blocks, strict=True)
    return with_modules(packed, {"blocks": nn.ModuleList(single_token_block(*pair) for pair in pairs)})


def single_token_block(packed: Any, exact: Any) -> nn.Module:
    """A block for the scale of one token; what does not compute attention as this package's blocks do stays."""
    changed: dict[str, nn.Module] = {}
    crossing = is_plain(exact, AttnCrossMLPBlock)
    attentive = (crossing or is_plain(exact, AttnMLPBlock)) and is_plain(exact.attn, SelfAttention)
    if attentive and is_matrix(exact.attn.qkv) and is_matrix(exact.attn.proj):
        changed["attn"] = SingleTokenAttention(packed.attn, exact.attn)
    if crossing and is_plain(exact.cross, CrossAttention):
        changed["cross"] = SingleTokenCrossAttention(packed.cross)
    return with_modules(packed, changed)


def with_modules(module: Packable, changed: dict[str, nn.Module]) -> Packable:
    """A copy of `module` that shares all its submodules but the `changed` ones."""
    clone = copy.copy(module)
    clone._modules = {**module._modules, **changed}
    return clone


def stack_modulations(flow: FlowTransformer) -> nn.Linear | None:
    """All modulations per position, the blocks' and the output's, as one layer whose weights theirs become views of.

    None if one of them is no plain layer.
    """
    layers = [*(block.position_modulation for block in flow.blocks), flow.output_modulation]
    if not all(is_plain(layer, nn.Linear) for layer in layers):
        return None
    stacked = linear_of(*(frozen(torch.cat([getattr(each, name) for each in layers])) for name in ("weight", "bias")))
    sizes = [layer.out_features for layer in layers]
    for layer, weight, bias in zip(layers, stacked.weight.split(sizes), stacked.bias.split(sizes), strict=True):
        layer.weight, layer.bias = frozen(weight), frozen(bias)
    return stacked
