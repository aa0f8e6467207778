"""Arguments for every op, and the tolerance rule that all tests of ops share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flowar import ops
from flowar.ops import reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
SHAPES = [(1, 1, 1), (2, 3, 7), (1, 5, 15), (3, 2, 16), (2, 3, 17), (1, 2, 31), (2, 1, 64), (1, 3, 67), (1, 1, 1031)]
EMPTY = [(0, 3, 8), (2, 0, 8)]
MODULATIONS = ["packed", "per_image", "per_position", "vector", "expanded", "transposed"]
HEADS = 2


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 1000 * sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def modulation(kind: str, shape: tuple[int, int, int], count: int, dtype: torch.dtype) -> list[Tensor]:
    """`count` tensors that broadcast to `shape`, as a model passes them (and, transposed, as it does not)."""
    batch, tokens, channels = shape
    if kind == "packed":
        return list(randn(batch, tokens, count * channels, seed=1, dtype=dtype).chunk(count, -1))
    if kind == "per_image":
        return list(randn(batch, 1, count * channels, seed=2, dtype=dtype).chunk(count, -1))
    if kind == "per_position":
        return list(randn(1, tokens, count * channels, seed=3, dtype=dtype).chunk(count, -1))
    if kind == "expanded":
        return [each.expand(shape) for each in modulation("per_image", shape, count, dtype)]
    if kind == "vector":
        return list(randn(count * channels, seed=4, dtype=dtype).chunk(count, -1))
    return [randn(channels, tokens, batch, seed=5 + i, dtype=dtype).permute(2, 1, 0) for i in range(count)]


def activation(shape: tuple[int, int, int], dtype: torch.dtype, seed: int) -> Tensor:
    """A slice of a larger buffer, off its 16-byte grid in every dimension."""
    batch, tokens, channels = shape
    return randn(batch + 1, tokens + 2, channels + 3, seed=seed, dtype=dtype)[1:, 1:-1, 1:-2]


Arguments = tuple[Any, ...]


def silu_add(shape: tuple[int, int, int], dtype: torch.dtype, kind: str) -> Arguments:
    return activation(shape, dtype, 10), *modulation(kind, shape, 1, dtype)


def geglu(shape: tuple[int, int, int], dtype: torch.dtype, kind: str) -> Arguments:
    return (activation((*shape[:2], 2 * shape[2]), dtype, 11),)


def spatial_adaln(shape: tuple[int, int, int], dtype: torch.dtype, kind: str) -> Arguments:
    return activation(shape, dtype, 12), *modulation(kind, shape, 2, dtype), "rms", 1e-3


def spatial_adaln_layer(shape: tuple[int, int, int], dtype: torch.dtype, kind: str) -> Arguments:
    return *spatial_adaln(shape, dtype, kind)[:3], "layer", 1e-3


def spatial_adaln_residual(shape: tuple[int, int, int], dtype: torch.dtype, kind: str) -> Arguments:
    gate, scale, shift = modulation(kind, shape, 3, dtype)
    return activation(shape, dtype, 13), gate, activation(shape, dtype, 14), scale, shift, "layer", 1e-3


def rotary(shape: tuple[int, int, int], dtype: torch.dtype, parts: int) -> tuple[Tensor, Tensor]:
    batch, tokens, channels = shape
    angles = randn(tokens, channels, seed=15).double()
    rotation = torch.stack((angles.cos(), angles.sin()), -1)
    packed = activation((batch, tokens, parts * HEADS * 2 * channels), dtype, 16)
    return packed, rotation if dtype == torch.float64 else rotation.float()


def rotary_q(shape: tuple[int, int, int], dtype: torch.dtype, kind: str) -> Arguments:
    return *rotary(shape, dtype, 1), HEADS, 1


def rotary_kv(shape: tuple[int, int, int], dtype: torch.dtype, kind: str) -> Arguments:
    return *rotary(shape, dtype, 2), HEADS, 2


def rotary_qkv(shape: tuple[int, int, int], dtype: torch.dtype, kind: str) -> Arguments:
    return *rotary(shape, dtype, 3), HEADS, 3


def latent_resample(shape: tuple[int, int, int], dtype: torch.dtype, kind: str) -> Arguments:
    batch, tokens, channels = shape
    rows = randn(3, 2, seed=17).double().where(torch.tensor([[True, True], [False, True], [True, False]]), 0.0)
    return activation((batch, 2 * tokens, channels), dtype, 18), rows.to(dtype), randn(5, tokens, seed=19, dtype=dtype)


def latent_pyramid(shape: tuple[int, int, int], dtype: torch.dtype, kind: str) -> Arguments:
    batch, tokens, channels = shape
    latents = randn(batch + 1, channels, 3, tokens + 1, seed=20, dtype=dtype)[1:, :, :, 1:]
    rows = [randn(size, 3, seed=21, dtype=dtype) for size in (1, 2, 5)]
    return latents, rows, [randn(size, tokens, seed=22, dtype=dtype) for size in (1, 3, 4)]


def quantize_rows(shape: tuple[int, int, int], dtype: torch.dtype, kind: str) -> Arguments:
    return (activation(shape, dtype, 23),)


# name of the case: (name of the op, its arguments)
DIFFERENTIABLE: dict[str, tuple[str, Callable[..., Arguments]]] = {
    "silu_add": ("silu_add", silu_add),
    "geglu": ("geglu", geglu),
    "spatial_adaln": ("spatial_adaln", spatial_adaln),
    "spatial_adaln_layer": ("spatial_adaln", spatial_adaln_layer),
    "spatial_adaln_residual": ("spatial_adaln_residual", spatial_adaln_residual),
    "rotary_q": ("rotary_qkv", rotary_q),
    "rotary_kv": ("rotary_qkv", rotary_kv),
    "rotary_qkv": ("rotary_qkv", rotary_qkv),
    "latent_resample": ("latent_resample", latent_resample),
}
CASES = DIFFERENTIABLE | {
    "latent_pyramid": ("latent_pyramid", latent_pyramid),
    "quantize_rows": ("quantize_rows", quantize_rows),
}
MODULATED = [name for name in CASES if name.startswith(("silu", "spatial"))]


def variants(names: list[str] | None = None) -> list[tuple[str, str]]:
    """Every case with every kind of modulation that it can take."""
    return [(name, kind) for name in names or CASES for kind in (MODULATIONS if name in MODULATED else ["packed"])]


def tree_map(function: Callable[[Tensor], Any], value: Any) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    return type(value)(tree_map(function, item) for item in value) if isinstance(value, list | tuple) else value


def flat(result: Any) -> Tensor:
    """All numbers of a result in one float64 vector."""
    parts = result if isinstance(result, list | tuple) else (result,)
    return torch.cat([part.detach().double().flatten() for part in parts])


def call(name: str, arguments: Arguments, module: Any = ops) -> Any:
    return getattr(module, CASES[name][0])(*arguments)


def gradients(name: str, arguments: Arguments, module: Any) -> list[Tensor]:
    """The gradients of a weighted sum of the results, for every argument that has one."""
    leaves: list[Tensor] = []

    def leaf(argument: Any, index: int) -> Any:
        wanted = isinstance(argument, Tensor) and (index == 0 or name in MODULATED)
        if wanted:
            leaves.append(argument.detach().requires_grad_())
        return leaves[-1] if wanted else argument

    result = call(name, tuple(leaf(argument, i) for i, argument in enumerate(arguments)), module)
    results = result if isinstance(result, tuple) else (result,)
    weights = [randn(*part.shape, seed=30 + i, dtype=part.dtype) for i, part in enumerate(results)]
    return list(torch.autograd.grad(results, leaves, weights))


def assert_close(ours: Any, eager: Any, exact: Any, dtype: torch.dtype, slack: float = 1.0) -> None:
    """At most twice the error of plain PyTorch in the same precision, both against float64.

    `slack` units of rounding of the largest value are granted on top: on a handful of numbers PyTorch may be lucky.
    """
    ours, eager, exact = flat(ours), flat(eager), flat(exact)
    if exact.numel() == 0:
        assert ours.numel() == 0
        return
    rounding = torch.finfo(dtype).eps * exact.abs().max() * (8 if dtype == torch.float64 else slack)
    error, allowed = (ours - exact).abs().max(), 2 * (eager - exact).abs().max() + rounding
    assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g}"


def exact(arguments: Arguments) -> Arguments:
    return tree_map(lambda x: x.double() if x.is_floating_point() else x, arguments)


__all__ = [name for name in dir() if not name.startswith("_")] + ["reference"]
