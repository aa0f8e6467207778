"""The small parts that both transformers share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard, TypeVar

import torch
from torch import Tensor, nn

from flowar import ops

Kind = TypeVar("Kind", bound=nn.Module)

RMS_EPS = 1e-6


class ResidualStream(NamedTuple):
    """The state that blocks of a transformer hand on: x, and the last branch, to be added to it as `gate * branch`.

    Adding a branch and taking the modulated norm that follows are one op; so a block leaves its last branch to the
    next one's first norm. Nothing is changed in place.
    """

    x: Tensor  # [B, N, W]
    gate: Tensor | None = None  # broadcasts to x
    branch: Tensor | None = None  # [B, N, W]

    def sum(self) -> Tensor:
        """x with the branch added."""
        return self.x if self.gate is None or self.branch is None else self.x + self.gate * self.branch

    def add(self, gate: Tensor, branch: Tensor) -> ResidualStream:
        """The stream with its branch added, and `gate * branch` as what is to be added next."""
        return ResidualStream(self.sum(), gate, branch)

    def modulated(self, scale: Tensor, shift: Tensor) -> tuple[ResidualStream, Tensor]:
        """The stream with its branch added, and `norm(x) * (1 + scale) + shift` of that."""
        if self.gate is None or self.branch is None:
            return self, ops.spatial_adaln(self.x, scale, shift)
        x, h = ops.spatial_adaln_residual(self.x, self.gate, self.branch, scale, shift)
        return ResidualStream(x), h


def run_block(function: Callable[..., ResidualStream], *arguments: Any, checkpoint: bool) -> ResidualStream:
    """Call a function; with `checkpoint` backward computes its activations again, and keeps the arguments alone.

    Dropout draws the same numbers again. Without gradients there is nothing to keep, and `checkpoint` does nothing.
    """
    if not (checkpoint and torch.is_grad_enabled()):
        return function(*arguments)

    def run(*arguments: Any) -> ResidualStream:
        stream = function(*arguments)
        # The gate is a part of the block's modulation, and would keep all of it.
        return stream if stream.gate is None else stream._replace(gate=stream.gate.contiguous())

    stream: ResidualStream = torch.utils.checkpoint.checkpoint(run, *arguments, use_reentrant=False)
    return stream


class RMSNorm(nn.Module):
    """RMS norm with a learned weight, as the modulated norm of `scale = weight - 1`: backward needs x alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.after(ResidualStream(x))[1]

    def after(self, stream: ResidualStream) -> tuple[ResidualStream, Tensor]:
        """The stream with its branch added, and its norm, of the promoted dtype of x and the weight."""
        if ops.reference_active():  # the definition has no scale and shift
            x = stream.sum()
            return ResidualStream(x), ops.reference.normalize(x, "rms", RMS_EPS) * self.weight
        scale = self.weight.to(torch.promote_types(self.weight.dtype, torch.float32)) - 1  # 16 bits would lose digits
        stream, h = stream.modulated(scale, torch.zeros_like(scale))
        return stream, h.to(torch.promote_types(stream.x.dtype, self.weight.dtype))


class GEGLU(nn.Module):
    """`fc2(gelu(a) * b)` where a and b are the two halves of `fc1(x)`; hidden width 8/3 of the model's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = int(width * 8 / 3)
        self.fc1 = nn.Linear(width, 2 * hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(ops.geglu(self.fc1(x)))


def linear_of(weight: nn.Parameter, bias: nn.Parameter | None = None) -> nn.Linear:
    """A linear layer of these very parameters: weight [out, in], bias [out]."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = weight
    layer.register_parameter("bias", bias)
    return layer


def is_plain(module: nn.Module, kind: type[Kind]) -> TypeGuard[Kind]:
    """Whether a module computes what its class says: it is of `kind` itself, of no subclass, and has no hooks."""
    return type(module) is kind and not module._forward_hooks and not module._forward_pre_hooks


def replace_leaves(module: nn.Module, replacement: Callable[[nn.Module], nn.Module]) -> None:
    """Put `replacement(leaf)` in the place of every module inside `module` that has none itself.

    They are replaced one by one, and each is let go of before the next one is replaced.
    """
    for parent in [each for each in module.modules() if [*each.children()]]:
        for name, child in parent.named_children():
            if not [*child.children()]:
                setattr(parent, name, replacement(child))


class TimeEmbedding(nn.Module):
    """The embedding τ of the time: sinusoids of floor(1000 t), 128 cosines then 128 sines, through a two-layer MLP."""

    FREQUENCIES = 128

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * self.FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    @property
    def last(self) -> nn.Linear:
        """The layer that τ comes out of."""
        layer = self.mlp[2]
        assert isinstance(layer, nn.Linear)
        return layer

    def forward(self, t: Tensor) -> Tensor:
        """Times t [...] in [0, 1] to τ [..., W]."""
        exponents = torch.arange(self.FREQUENCIES, device=t.device, dtype=torch.float32) / self.FREQUENCIES
        angles = (1000 * t.float()).floor()[..., None] * torch.exp(-math.log(10000) * exponents)
        waves = torch.cat((angles.cos(), angles.sin()), -1)
        return self.mlp(waves.to(self.mlp[0].bias.dtype))  # type: ignore[arg-type]


class Constants(nn.Module):
    """Precomputed float32 tables: they follow the model between devices, and stay float32 under `model.half()`."""

    def __init__(self, **tables: Tensor) -> None:
        super().__init__()
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Tensor: ...

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Constants:
        return super()._apply(lambda table: table.to(fn(table).device), recurse)  # type: ignore[no-untyped-call]
