"""The choice of what serves the ops: the compiled libraries, or `reference` in plain PyTorch."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from flowar.ops.refusal import CAUSES, refusal, refusing
from flowar.system.installation import INSTALL_TORCH, REBUILD, too_old, without_libraries

Op = TypeVar("Op", bound=Callable[..., Any])


def _load(name: str) -> None:
    path = Path(__file__).parents[1] / f"{name}.so"
    if not path.exists():
        raise ImportError(f"flowar: the compiled library {path.name} is missing; {REBUILD}.")
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        reason = f"does not load with torch {torch.__version__} ({error.__cause__ or error})"
        raise ImportError(f"flowar: the compiled library {path.name} {reason}; {REBUILD}.") from None


def _load_libraries() -> bool:
    """Load the libraries of ops, and return whether there are some; the user may have asked for none.

    Raises:
        ImportError: if they cannot be loaded.
    """
    if without_libraries():
        warnings.warn("flowar runs without its compiled ops: plain PyTorch serves them, slowly", stacklevel=2)
        return False
    if too_old(torch.__version__):
        raise ImportError(f"flowar: torch {torch.__version__} is too old; `{INSTALL_TORCH}`, then {REBUILD}.")
    _load("_C_cpu")
    if torch.version.cuda and (Path(__file__).parents[1] / "_C_cuda.so").exists():
        _load("_C_cuda")
    return True


compiled: bool = _load_libraries()


class _Choice(threading.local):
    """The choice of a thread, so that `use_reference` in one thread never changes the numbers of another."""

    reference = not compiled


_choice = _Choice()


def reference_active() -> bool:
    """Whether ops called now, on this thread, are served by `flowar.ops.reference`."""
    return _choice.reference


_kernels: set[tuple[str, str]] = set()  # (op, device type) of the loaded libraries; `op` adds to it


def reference_serves(name: str, tensor: torch.Tensor) -> bool:
    """True where op `name`, called now on `tensor`, is served by `flowar.ops.reference`.

    That is: where it was asked for, and on devices that the loaded libraries have no kernel of this op for.
    """
    return _choice.reference or (name, tensor.device.type) not in _kernels


def defined_by(definition: Op) -> Callable[[Op], Op]:
    """Let a function of `flowar.ops.reference` serve the decorated op of its name, wherever `reference_serves` says so.

    The first argument of an op is a tensor, passed by position: its device matters. Arguments that the op does not take
    raise an ArgumentError.
    """
    name = definition.__name__

    def decorate(compiled: Op) -> Op:
        @functools.wraps(compiled)
        def serve(tensor: torch.Tensor, *arguments: Any, **options: Any) -> Any:
            try:
                serving = definition if reference_serves(name, tensor) else compiled
                return serving(tensor, *arguments, **options)
            except CAUSES as error:
                raise refusal(compiled, (tensor, *arguments), options, error) from error

        return cast(Op, serve)

    return decorate


def cuda_kernels() -> list[str]:
    """The ops that have a CUDA kernel in the loaded libraries; the others run as plain PyTorch on a GPU."""
    return sorted(name for name, device in _kernels if device == "cuda")


@refusing
def missing_kernels(device_type: str) -> list[str]:
    """The ops of the schema that no loaded library serves on "cpu" or "cuda"."""
    keys = (device_type.upper(), "CompositeExplicitAutograd")
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("flowar::")]
    return sorted(name for name in names if not any(has_kernel(name, key) for key in keys))


@contextmanager
def use_reference() -> Iterator[None]:
    """Serve the ops called in this context, on this thread, by `flowar.ops.reference`."""
    before = _choice.reference
    _choice.reference = True
    try:
        yield
    finally:
        _choice.reference = before


def implementation() -> str:
    """The name of what serves an op called now: "reference", or "compiled" with the instruction set of CPU kernels."""
    return "reference" if reference_active() else f"compiled ({cpu_isa()})"


def cpu_isa(select: str | None = None) -> str:
    """The instruction set that CPU kernels use: "baseline", "avx2" or "avx512".

    The best one that the processor has is chosen at start-up (or the one named by the environment variable
    `FLOWAR_ISA`); `select` changes it for the whole process. Raises ValueError for one the processor lacks.
    """
    if not compiled:
        raise RuntimeError("flowar runs without its compiled ops")
    return _cpu_isa(select or "")


@refusing
def _cpu_isa(select: str) -> str:
    name: str = torch.ops.flowar.cpu_isa.default(select)
    return name


def op(name: str) -> Callable[..., Any]:
    """The compiled op `name`, without the overload lookup of `torch.ops.flowar.name` at every call."""
    if not compiled:
        return _no_op
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    _kernels.update((name, device) for device in ("cpu", "cuda") if has_kernel(f"flowar::{name}", device.upper()))
    overload: Callable[..., Any] = getattr(torch.ops.flowar, name).default
    return overload


def _no_op(*_: Any) -> Any:
    raise RuntimeError("flowar runs without its compiled ops")


def register_fake(name: str, fake: Callable[..., Any]) -> None:
    """Tell torch.compile the shapes and dtypes that the op returns."""
    if compiled:
        torch.library.register_fake(f"flowar::{name}", fake)


def register_autograd(name: str, backward: Callable[..., Any], setup_context: Callable[..., None]) -> None:
    """Give the op its gradient; `setup_context(ctx, inputs, output)` keeps what `backward(ctx, *grads)` needs."""
    if compiled:
        torch.library.register_autograd(f"flowar::{name}", backward, setup_context=setup_context)


def promoted(*tensors: torch.Tensor) -> torch.dtype:
    """The dtype of a result computed from these tensors together."""
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def reduced(grad: torch.Tensor, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    """The gradient of an argument that was broadcast: summed to its shape, in its dtype."""
    if grad.shape != shape:  # each call that does nothing costs microseconds of host time
        grad = grad.sum_to_size(shape)
    return grad if grad.dtype == dtype else grad.to(dtype)


def fake_modulation_gradient(argument: torch.Tensor, x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """The fake of the gradient of `scale` or `gate`: a row per token, or float sums over the tokens."""
    batch, tokens, channels = (1,) * (3 - x.dim()) + x.shape
    if argument.dim() < 2 or argument.shape[-2] == 1:
        return grad.new_empty((batch, 1, channels), dtype=torch.promote_types(grad.dtype, torch.float32))
    return grad.new_empty((batch, tokens, channels), dtype=argument.dtype)


def is_layer_norm(norm: str) -> bool:
    """Whether `norm` is "layer" rather than "rms".

    Raises:
        ValueError: for another name.
    """
    if norm not in ("rms", "layer"):
        raise ValueError(f'norm: expected "rms" or "layer", got {norm!r}')
    return norm == "layer"
