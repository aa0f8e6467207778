"""The calls of every op that FlowAR-L makes: arguments as the model passes them, and the bytes that must move.

Bytes are those of the formulas in `csrc/kernels/*.h`: every argument read once, every result written once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flowar import FlowARConfig, ops
from flowar.networks.attention import rotation_table
from flowar.networks.latent_pyramid import LatentPyramid

CONFIG = FlowARConfig.preset("L")
HIDDEN = 2752  # 8/3 of the width, padded to a multiple of 64 as the inference plan does


@dataclass(frozen=True)
class Call:
    """One op on one set of arguments.

    Attributes:
        op: its name in `flowar.ops`.
        form: how this call differs from others of the same op.
        rows: tokens of all images.
        arguments: of the function.
        moved, moved_backward: bytes; 0 where there is no backward.
        differentiable: positions of the arguments that get a gradient.
        mutated: positions of those that the op writes.
    """

    op: str
    form: str
    rows: int
    arguments: Sequence[Any]
    moved: int
    moved_backward: int = 0
    differentiable: Sequence[int] = field(default=())
    mutated: Sequence[int] = field(default=())


class Calls:
    """The calls for `batch` rows of images (guidance halves counted) of `scale`, one method per op."""

    def __init__(self, batch: int, scale: int, dtype: torch.dtype, device: torch.device) -> None:
        self.batch, self.scale, self.dtype, self.device = batch, scale, dtype, device
        self.tokens, self.width = CONFIG.scale_lengths[scale], CONFIG.flow_width
        self.size = torch.finfo(dtype).bits // 8  # bytes of an element
        self.rows = batch * self.tokens

    def of(self, names: Sequence[str]) -> Iterator[Call]:
        """The calls of the ops with these names."""
        for name in names:
            yield from getattr(self, name)()

    def random(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(sum(shape))
        return torch.randn(shape, generator=generator, device=self.device, dtype=dtype or self.dtype)

    def activation(self) -> Tensor:
        return self.random(self.batch, self.tokens, self.width)

    def chunks(self, batch: int, tokens: int, count: int, used: int) -> list[Tensor]:
        """The last `used` of `count` chunks of one packed modulation, read in place."""
        return list(self.random(batch, tokens, count * self.width).chunk(count, -1)[-used:])

    def moves(self, elements_per_channel: int) -> int:
        """Bytes of so many elements for every channel of every row."""
        return elements_per_channel * self.rows * self.width * self.size

    def silu_add(self) -> Iterator[Call]:
        a = self.activation()
        yield Call("silu_add", "one time", self.rows, (a, self.random(1, 1, self.width)), self.moves(2))
        arguments = (a, self.random(self.batch, self.tokens, self.width))
        yield Call("silu_add", "times", self.rows, arguments, self.moves(3), self.moves(4), (0, 1))

    def geglu(self) -> Iterator[Call]:
        element = self.rows * HIDDEN * self.size
        packed = self.random(self.batch, self.tokens, 2 * HIDDEN)
        yield Call("geglu", f"hidden {HIDDEN}", self.rows, (packed,), 3 * element, 5 * element, (0,))

    def spatial_adaln(self) -> Iterator[Call]:
        x = self.activation()
        by_time = self.chunks(1, 1, 3, 2)
        yield Call("spatial_adaln", "by time", self.rows, (x, *by_time), self.moves(2))
        by_position = self.chunks(self.batch, self.tokens, 3, 2)
        arguments = (x, *by_position)
        yield Call("spatial_adaln", "by position", self.rows, arguments, self.moves(4), self.moves(5), (0, 1, 2))

    def spatial_adaln_residual(self) -> Iterator[Call]:
        x, branch = self.activation(), self.random(self.batch, self.tokens, self.width)
        gate, scale, shift = self.chunks(self.batch, 1, 6, 3)
        arguments = (x, gate, branch, scale, shift)
        name = "spatial_adaln_residual"
        yield Call(name, "by image", self.rows, arguments, self.moves(4), self.moves(6), (0, 1, 2, 3, 4))
        gate, scale, shift = self.chunks(self.batch, self.tokens, 6, 3)
        arguments = (x, gate, branch, scale, shift)
        yield Call(name, "by position", self.rows, arguments, self.moves(7), self.moves(10), (0, 1, 2, 3, 4))

    def rotary_qkv(self) -> Iterator[Call]:
        packed = self.random(self.batch, self.tokens, 3 * self.width)
        arguments = (packed, self.rotation(), CONFIG.flow_heads, 3)
        yield Call("rotary_qkv", "q, k, v", self.rows, arguments, self.moves(6), self.moves(6), (0,))

    def rotary_qkv_cache(self) -> Iterator[Call]:
        heads, end = CONFIG.ar_heads, sum(CONFIG.scale_lengths[: self.scale + 1])
        caches = [self.random(self.batch, CONFIG.tokens, heads, self.width // heads) for _ in range(2)]
        packed = self.random(self.batch, self.tokens, 3 * self.width)
        arguments = (packed, self.rotation(), heads, *caches, end - self.tokens)
        yield Call("rotary_qkv_cache", "into the cache", self.rows, arguments, self.moves(6), mutated=(3, 4))

    def latent_resample(self) -> Iterator[Call]:
        """From the scale before (at the first scale: to the second)."""
        scale = max(self.scale, 1)
        before, after = CONFIG.scale_lengths[scale - 1 : scale + 1]
        constants, images = self.pyramid().constants, self.images()
        matrices = (getattr(constants, f"up_{axis}_{scale}") for axis in ("rows", "columns"))
        tokens = self.random(images, before, CONFIG.latent_channels, dtype=torch.float32)
        moved = images * (before + after) * CONFIG.latent_channels * 4
        yield Call("latent_resample", "next scale", images * after, (tokens, *matrices), moved, moved, (0,))

    def latent_pyramid(self) -> Iterator[Call]:
        """Of full images, whatever the scale: in training."""
        images, channels = self.images(), CONFIG.latent_channels
        latents = self.random(images, channels, *CONFIG.grid, dtype=torch.float32)
        constants = self.pyramid().constants
        names = [f"target_{{}}_{k}" for k in range(len(CONFIG.grids))]
        names += [f"input_{{}}_{k}" for k in range(1, len(CONFIG.grids))]
        rows, columns = ([getattr(constants, name.format(axis)) for name in names] for axis in ("rows", "columns"))
        tokens = 2 * CONFIG.tokens - 1
        moved = 4 * images * channels * (CONFIG.scale_lengths[-1] + tokens)
        yield Call("latent_pyramid", "targets, inputs", images * tokens, (latents, rows, columns), moved)

    def velocity_step(self) -> Iterator[Call]:
        shape = (self.tokens, CONFIG.latent_channels)
        state = self.random(self.images(), *shape, dtype=torch.float32)
        velocity, following = self.random(2 * len(state), *shape), self.random(2 * len(state), *shape)
        arguments = (state, velocity, -0.01, 2.4, following)
        moved = state.numel() * (2 * 4 + 4 * self.size)
        yield Call("velocity_step", "guided", self.images() * self.tokens, arguments, moved, mutated=(0, 4))

    def counter_normal(self) -> Iterator[Call]:
        seeds = torch.arange(self.images(), device=self.device)
        count = self.tokens * CONFIG.latent_channels
        yield Call("counter_normal", "noise", self.rows // 2, (seeds, self.scale, count), 4 * len(seeds) * count)

    def images(self) -> int:
        return max(self.batch // 2, 1)

    def rotation(self) -> Tensor:
        start = sum(CONFIG.scale_lengths[: self.scale])
        table = rotation_table(CONFIG.grids, CONFIG.flow_width // (CONFIG.flow_heads or 1))
        return table[start : start + self.tokens].to(self.device)

    def pyramid(self) -> LatentPyramid:
        return LatentPyramid(CONFIG).to(self.device)


OPS = tuple(name for name in ops.__all__ if name in vars(Calls))


def results(call: Call, module: object, convert: Callable[[Tensor], Tensor] = lambda x: x) -> list[Tensor]:
    """Everything that the call gives back or writes, with floating arguments converted; its own stay as they are."""
    arguments = tensor_map(lambda x: convert(x) if x.is_floating_point() else x, list(call.arguments))
    for position in call.mutated:
        arguments[position] = arguments[position].clone()
    returned = getattr(module, call.op)(*arguments)
    tensors = returned if isinstance(returned, tuple) else (returned,)
    return [x for x in (*tensors, *(arguments[position] for position in call.mutated)) if x is not None]


def gradients(
    call: Call, function: Callable[..., Any], convert: Callable[[Tensor], Tensor] = lambda x: x
) -> Callable[[], Sequence[Tensor]]:
    """The gradients of the call, again at every call of what is returned; the forward pass runs once, here."""
    arguments = tensor_map(lambda x: convert(x) if x.is_floating_point() else x, list(call.arguments))
    leaves = [arguments[position].detach().requires_grad_() for position in call.differentiable]
    for position, leaf in zip(call.differentiable, leaves, strict=True):
        arguments[position] = leaf
    returned = function(*arguments)
    outputs = returned if isinstance(returned, tuple) else (returned,)
    # Weights that every dtype has: -0.75 .. 0.75 in steps of a quarter.
    weights = [((torch.arange(out.numel(), device=out.device) % 7 - 3) / 4).view(out.shape).to(out) for out in outputs]
    return lambda: torch.autograd.grad(outputs, leaves, weights, retain_graph=True)


def tensor_map(function: Callable[[Tensor], Any], value: Any) -> Any:
    """`function` of every tensor in nested lists."""
    if isinstance(value, Tensor):
        return function(value)
    return type(value)(tensor_map(function, item) for item in value) if isinstance(value, (list, tuple)) else value
