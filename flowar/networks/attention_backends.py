"""Which implementation serves attention: the FlashAttention packages, PyTorch's own kernels, or the definition.

None of them takes a mask: every attention of the model is dense (see `flowar.networks.attention`). Which one is fastest
depends on the GPU and on the shape, so plans of the engine measure it (`flowar.system.autotune`).
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from flowar.errors import MissingPackageError, first_line
from flowar.networks.dropout import dropout as drop
from flowar.system.autotune import Candidates, active_tuner, autotune_enabled, gpu_tuner
from flowar.system.installation import install_command

FLASH_DTYPES = (torch.bfloat16, torch.float16)
HEAD_DIM_MULTIPLE = 8  # 16 bytes of a 16-bit dtype: FlashAttention loads heads in such vectors


@dataclass(frozen=True)
class FlashPackage:
    """One generation of FlashAttention and what it serves."""

    name: str
    backend: str
    module: str
    capabilities: tuple[int, ...]  # major numbers
    max_head_dim: int
    dropout: bool

    def refusal(self, device: torch.device, head_dim: int, dropout: float) -> str | None:
        """What a call asks that this package does not have, or None."""
        major, minor = torch.cuda.get_device_capability(device)
        if major not in self.capabilities:
            majors = ", ".join(map(str, self.capabilities))
            return f"{self.name} expects a GPU of compute capability {majors}, got {major}.{minor}"
        if head_dim > self.max_head_dim or head_dim % HEAD_DIM_MULTIPLE:
            limit = f"a multiple of {HEAD_DIM_MULTIPLE} up to {self.max_head_dim}"
            return f"{self.name} expects a head_dim that is {limit}, got {head_dim}"
        if dropout and not self.dropout:
            return f"{self.name} has no dropout, got {dropout}"
        return None


# Where several serve a GPU, the first one is made for it.
FLASH_PACKAGES = (
    FlashPackage("FlashAttention 3", "flash-3", "flash_attn_interface", (9,), 256, dropout=False),
    FlashPackage("FlashAttention 4", "flash-4", "flash_attn.cute", (9, 10, 11), 128, dropout=False),
    FlashPackage("FlashAttention 2", "flash-2", "flash_attn", (8, 9, 10, 11, 12), 256, dropout=True),
)


BACKENDS = (
    *("auto", "flash", *(package.backend for package in FLASH_PACKAGES)),
    *("sdpa", "sdpa-flash", "sdpa-cudnn", "sdpa-efficient", "reference"),
)


@dataclass(frozen=True)
class InstalledFlash:
    """A package that is installed, and its function."""

    package: FlashPackage
    label: str  # module and version
    function: Callable[..., Any]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        """What `attention` returns."""
        out = self.function(q, k, v, dropout_p=dropout) if dropout else self.function(q, k, v)
        out = out[0] if isinstance(out, tuple) else out  # 4, and early versions of 3, return the log-sum-exp as well
        return out.flatten(2)


@dataclass(frozen=True)
class FlashImports:
    """The packages that are installed, and what is wrong where none is."""

    installed: tuple[InstalledFlash, ...]
    problem: str


def import_flash() -> FlashImports:
    """Import what there is of `FLASH_PACKAGES`."""
    installed, problems = [], []
    for package in FLASH_PACKAGES:
        try:
            module = importlib.import_module(package.module)
        except Exception as error:  # a package that is broken, in whatever way, must not break the other backends
            if not (isinstance(error, ModuleNotFoundError) and error.name in (package.module, "flash_attn")):
                problems.append(f"{package.module} does not load ({first_line(error)})")
            continue
        if hasattr(module, "flash_attn_func"):  # flash_attn alone is but the folder that holds flash_attn.cute
            label = f"{package.module} {getattr(module, '__version__', '')}".strip()
            installed.append(InstalledFlash(package, label, module.flash_attn_func))
    return FlashImports(tuple(installed), "; ".join(problems) or "the package flash_attn is not installed")


_flash: FlashImports | None = None


def flash_imports() -> FlashImports:
    """`import_flash`, once: importing these packages takes seconds, and most uses of flowar never ask."""
    global _flash
    if _flash is None:
        _flash = import_flash()
    return _flash


def choose_flash(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0, backend: str = "flash") -> InstalledFlash | str:
    """The package that serves this call of `attention`, or why none does; any, or that of one backend."""
    serving = serving_flash(q, k, v, dropout, backend)
    return serving[0] if isinstance(serving, list) else serving


def serving_flash(
    q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0, backend: str = "flash"
) -> list[InstalledFlash] | str:
    """All packages that serve a call, best first, or why none does."""
    if q.device.type != "cuda" or torch.version.hip:
        return f"expected CUDA tensors, got {'ROCm' if torch.version.hip else q.device.type}"
    if q.dtype not in FLASH_DTYPES or not q.dtype == k.dtype == v.dtype:
        return f"expected q, k and v in bfloat16 or in float16, got {q.dtype}, {k.dtype}, {v.dtype}"
    installed = installed_flash(backend)
    refusals = [flash.package.refusal(q.device, q.shape[-1], dropout) for flash in installed]
    serving = [flash for flash, refusal in zip(installed, refusals, strict=True) if refusal is None]
    return serving or "; ".join(filter(None, refusals)) or flash_imports().problem


def installed_flash(backend: str) -> list[InstalledFlash]:
    """The packages that a backend may take: "flash" any, others their own."""
    return [flash for flash in flash_imports().installed if backend in ("flash", flash.package.backend)]


def sdpa_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """`attention` by PyTorch, which chooses among FlashAttention, cuDNN and its other kernels."""
    if q.device.type == "cpu" and not torch.compiler.is_compiling():
        if dropout:
            return unfused_attention(q, k, v, dropout)
        if q.requires_grad and q.dtype.itemsize == 2:
            return widened_attention(q, k, v)
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), dropout_p=dropout)
    return out.transpose(1, 2).flatten(2)


def one_sdpa_kernel(backend: str, q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """`attention` by one of PyTorch's kernels on a GPU, called by itself: a choice of PyTorch's is of the process."""
    if q.device.type != "cuda":
        raise ValueError(f"attention backend {backend}: expected CUDA tensors, got {q.device.type}")
    heads = [x.transpose(1, 2) for x in (q, k, v)]
    training = torch.is_grad_enabled() and any(x.requires_grad for x in heads)  # the backward needs log-sum-exp
    if backend == "sdpa-flash":
        out = torch.ops.aten._scaled_dot_product_flash_attention(*heads, dropout)[0]
    elif backend == "sdpa-cudnn":
        out = torch.ops.aten._scaled_dot_product_cudnn_attention(*heads, None, training, dropout)[0]
    else:
        out = torch.ops.aten._scaled_dot_product_efficient_attention(*heads, None, training, dropout)[0]
    return cast(Tensor, out).transpose(1, 2).flatten(2)


def unfused_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    """`attention` with dropout on a CPU, for which PyTorch has no fused kernel: as it does, but for the drawing."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1)
    return (drop(weights, dropout) @ v).transpose(1, 2).flatten(2)


def widened_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`attention` of 16-bit tensors on a CPU, in float32: PyTorch's 16-bit backward pass takes 3 x as long."""
    with torch.autocast(q.device.type, enabled=False):
        return sdpa_attention(q.float(), k.float(), v.float()).to(q.dtype)


def reference_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """The definition: softmax(q kᵀ / sqrt(d)) v of every head, in float32 (float64 for float64), of q's dtype."""
    with torch.autocast(q.device.type, enabled=False):
        wide = torch.promote_types(q.dtype, torch.float32)
        scores = torch.einsum("bnhd,bmhd->bhnm", q.to(wide), k.to(wide)) / q.shape[-1] ** 0.5
        weights = F.dropout(scores.softmax(-1), dropout)
        return torch.einsum("bhnm,bmhd->bnhd", weights, v.to(wide)).flatten(2).to(q.dtype)


def attention(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """Dense softmax attention: q [B, N, H, d], k and v [B, M, H, d] to [B, N, H*d] of q's dtype.

    `reference_attention` defines it; `set_attention_backend` and `use_attention_backend` choose who computes it.
    "auto" is what was measured to be fastest where a plan samples on a GPU. Elsewhere it is FlashAttention where a
    package is installed that serves the call, otherwise PyTorch, and always PyTorch inside `torch.compile`, which sees
    through no other.

    Raises:
        ValueError: if a backend was chosen by name that does not serve this device, dtype, head_dim or dropout.
    """
    backend = attention_backend()
    if backend == "auto" and not torch.compiler.is_compiling():
        backend = automatic_backend(q, k, v, dropout)
    return attention_by(backend, q, k, v, dropout)


def attention_by(backend: str, q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """`attention` by the backend of that name; "auto" is PyTorch. Errors as there."""
    if backend == "reference":
        return reference_attention(q, k, v, dropout)
    if backend in ("auto", "sdpa"):
        return sdpa_attention(q, k, v, dropout)
    if backend.startswith("sdpa"):
        return one_sdpa_kernel(backend, q, k, v, dropout)
    flash = choose_flash(q, k, v, dropout, backend)
    if not isinstance(flash, InstalledFlash):
        raise ValueError(f"attention backend {backend}: {flash}")
    return flash(q, k, v, dropout)


def automatic_backend(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> str:
    """The fastest backend for a call without dropout while plans measure, otherwise the first that serves it."""
    tuner = active_tuner()
    if tuner is None or dropout:
        return "flash" if isinstance(choose_flash(q, k, v, dropout), InstalledFlash) else "sdpa"
    (batch, n, heads, dim), m = q.shape, k.shape[1]
    call = f"attention {str(q.dtype).removeprefix('torch.')} {batch} x {heads} heads of {dim}, {n} x {m} tokens"
    return tuner.fastest(call, lambda: measured_backends(q, k, v))


def measured_backends(q: Tensor, k: Tensor, v: Tensor) -> Candidates:
    """What to measure for one call: packages first, and last what PyTorch takes where none of its kernels serves."""
    serving = serving_flash(q, k, v)
    packages = [flash.package.backend for flash in serving] if isinstance(serving, list) else []
    names = (*packages, "sdpa-flash", "sdpa-cudnn", "sdpa-efficient", "sdpa")
    return {name: partial(attention_by, name, q, k, v) for name in names}


_default = "auto"


class _Choice(threading.local):
    """Per thread, so that `use_attention_backend` in one thread never changes the numbers of another."""

    backend: str | None = None


_choice = _Choice()


def attention_backend() -> str:
    """The name of the backend chosen for calls made now, on this thread."""
    return _choice.backend or _default


def set_attention_backend(name: str) -> None:
    """Choose the backend of the process.

    Args:
        name: "auto" (at start-up); "flash", the FlashAttention package made for the GPU, or "flash-2", "flash-3",
            "flash-4"; "sdpa", PyTorch's choice among its kernels, or "sdpa-flash", "sdpa-cudnn", "sdpa-efficient", one
            of them; "reference".

    Raises:
        ValueError: for any other name.
        MissingPackageError: for FlashAttention without that package, or one that cannot be imported.
    """
    global _default
    _default = checked(name)


@contextmanager
def use_attention_backend(name: str) -> Iterator[None]:
    """Choose the backend of calls in this context, on this thread. Errors as `set_attention_backend`."""
    before = _choice.backend
    _choice.backend = checked(name)
    try:
        yield
    finally:
        _choice.backend = before


def checked(name: str) -> str:
    """`name`, if it is a backend that is installed."""
    if name not in BACKENDS:
        raise ValueError(f"attention backend: expected one of {', '.join(BACKENDS)}, got {name}")
    if name.startswith("flash") and not installed_flash(name):
        problem = f"{name} is not installed" if flash_imports().installed else flash_imports().problem
        raise MissingPackageError(f"attention backend {name}: {problem}: {install_command('flash')}")
    return name


def backend_report(device: torch.device) -> dict[str, str]:
    """The chosen backend, and what each has to offer for bfloat16 heads of 64 on `device`."""
    flash = choose_flash(*torch.empty(3, 1, 1, 1, 64, device=device, dtype=torch.bfloat16))
    backend, automatic = attention_backend(), "sdpa"
    state = ", ".join(installed.label for installed in flash_imports().installed)
    if isinstance(flash, InstalledFlash):
        automatic = "flash"
    else:
        state = f"{state}, unavailable: {flash}" if state else f"unavailable: {flash_imports().problem}"
    if autotune_enabled() and gpu_tuner(device) is not None:
        automatic = f"measured by plans, elsewhere {automatic}"
    return {
        "attention": f"auto ({automatic})" if backend == "auto" else backend,
        "attention flash": state,
        "attention sdpa": f"torch {torch.__version__}",
        "attention reference": "plain PyTorch in float32",
    }
