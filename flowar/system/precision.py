"""The precisions that the networks run in, and those that the hardware is good at."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from flowar.errors import first_line
from flowar.system.arguments import check_type


@dataclass(frozen=True)
class Precision:
    """A precision of the networks: the dtype of weights and activations, and how matrices are multiplied.

    "exact" products are of the dtype itself. "tf32" rounds the factors of float32 products to 10 bits; "fp8" rounds
    them to float8_e4m3fn, with a scale per row (see `flowar.engine.fp8`). Sums are float32 at least in all of them.
    """

    name: str
    dtype: torch.dtype
    matmul: Literal["exact", "tf32", "fp8"] = "exact"


PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("float32", torch.float32),
        Precision("tf32", torch.float32, "tf32"),
        Precision("bfloat16", torch.bfloat16),
        Precision("float16", torch.float16),
        Precision("fp8", torch.bfloat16, "fp8"),
        Precision("float64", torch.float64),
    )
}
SHORT_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
MINIMUM_CAPABILITY = {"tf32": (8, 0), "bfloat16": (8, 0), "fp8": (8, 9)}  # of a GPU


def resolve_precision(request: torch.dtype | str | None, device: torch.device, parameters: torch.dtype) -> Precision:
    """The precision that sampling runs in: `request`, for a model whose `parameters` have that dtype on `device`.

    Args:
        request: float32 (fp32), tf32, bfloat16 (bf16), float16 (fp16), fp8 or float64 by name, or a torch dtype.
            None and "auto": bfloat16 for float32 parameters where `native_bfloat16`, otherwise the parameters' own.

    Raises:
        ValueError: for another request, and for one that `device` cannot serve.
    """
    if request is None or request == "auto":
        use_bfloat16 = parameters == torch.float32 and native_bfloat16(device)
        request = torch.bfloat16 if use_bfloat16 else parameters
    name = str(request).removeprefix("torch.")
    precision = PRECISIONS.get(SHORT_NAMES.get(name, name))
    if precision is None:
        raise ValueError(f"dtype: expected one of auto, {', '.join(PRECISIONS)}, got {request}")
    check_device(precision, device)
    return precision


def check_device(precision: Precision, device: torch.device) -> None:
    """Check that `device` computes in this precision.

    Raises:
        ValueError: if it does not, saying what the precision needs.
    """
    if precision.name == "float64" and device.type != "cpu":
        raise ValueError(f"dtype: float64 expects the CPU, got {device}")
    if precision.name == "tf32" and (device.type != "cuda" or torch.version.hip):
        raise ValueError(f"dtype: tf32 expects an NVIDIA GPU, got {'one of AMD' if torch.version.hip else device}")
    minimum = MINIMUM_CAPABILITY.get(precision.name)
    if precision.matmul == "fp8" and (device.type != "cuda" or torch.version.hip):
        check_fp8_products(device.type)
    if minimum is None or device.type != "cuda" or torch.version.hip:
        return
    capability = torch.cuda.get_device_capability(device)
    if capability < minimum:
        needed, found = (".".join(map(str, version)) for version in (minimum, capability))
        raise ValueError(f"dtype: {precision.name} expects compute capability {needed} or later, got {found}")


@functools.cache
def check_fp8_products(device_type: str) -> None:
    """Check that this torch multiplies float8 matrices with a scale per row on such a device.

    Raises:
        ValueError: if it does not.
    """
    try:
        matrix = torch.ones(16, 16, device=device_type).to(torch.float8_e4m3fn)
        scale = torch.ones(16, 1, device=device_type)
        torch._scaled_mm(matrix, matrix.t(), scale, scale.t(), out_dtype=torch.bfloat16)
    except (RuntimeError, ValueError, TypeError) as error:  # of whatever kind, from device to device
        problem = f"torch {torch.__version__} has none on {device_type}"
        raise ValueError(f"dtype: fp8 expects products of float8 matrices with a scale per row, {problem}") from error


def served_precisions(device: torch.device) -> list[str]:
    """The names of the precisions that `device` computes in."""
    served = []
    for precision in PRECISIONS.values():
        try:
            check_device(precision, device)
        except ValueError:
            continue
        served.append(precision.name)
    return served


class _Float32Setting:
    """torch's setting for float32 work of a kind on GPUs, which the threads of the process share."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.lock = threading.Lock()
        self.users = 0
        self.before = ""

    def acquire(self, wanted: str) -> None:
        with self.lock:
            current = self.backend.fp32_precision
            if self.users and current != wanted:
                raise RuntimeError(f"dtype: expected one float32 precision at a time, got {wanted} beside {current}")
            if not self.users:
                self.before = current
                self.backend.fp32_precision = wanted
            self.users += 1

    def release(self) -> None:
        with self.lock:
            self.users -= 1
            if not self.users:
                self.backend.fp32_precision = self.before


_matmul_setting = _Float32Setting(torch.backends.cuda.matmul)
_convolution_setting = _Float32Setting(torch.backends.cudnn.conv)  # type: ignore[attr-defined]


@contextmanager
def matmul_precision(precision: Precision) -> Iterator[None]:
    """Multiply float32 matrices on GPUs as `precision` says in this context; afterwards torch's setting is as it was.

    Raises:
        RuntimeError: while another thread samples in the other of float32 and tf32, as torch has one setting for all.
    """
    if precision.dtype != torch.float32:  # no product of float32 matrices that matters
        yield
        return
    _matmul_setting.acquire("tf32" if precision.matmul == "tf32" else "ieee")
    try:
        yield
    finally:
        _matmul_setting.release()


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Make float32 convolutions on GPUs exact in this context; torch's default is TF32, factors of 10 bits."""
    _convolution_setting.acquire("ieee")
    try:
        yield
    finally:
        _convolution_setting.release()


def native_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 faster than float32: Ampere GPUs and later, CPUs with AVX512-BF16 or AMX.

    It is False on all other accelerators, where that is not known.
    """
    if device.type == "cuda" and not torch.version.hip:
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


EXPECTED_DEVICE = "device: expected auto, cpu, or a GPU of this machine such as cuda:0"


def default_device(name: str | torch.device = "auto") -> torch.device:
    """The device to compute on that is called `name`, or the very device; "auto" is the GPU if there is one.

    Raises:
        ValueError: as of `existing_device`, and for meta.
    """
    device = existing_device(name)
    if device.type == "meta":
        raise ValueError(f"{EXPECTED_DEVICE}, got {name}, which computes nothing")
    return device


def existing_device(name: str | torch.device) -> torch.device:
    """The device called `name`, or the very device, meta among them; "auto" is the GPU if there is one.

    Raises:
        ValueError: for one that this machine, or this build of torch, does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    check_type("device", name, (str, torch.device), "the name of a device")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # what torch raises for unknown names and missing hardware
        raise ValueError(f"{EXPECTED_DEVICE}, got {name} ({first_line(error)})") from error


def parse_dtype(name: str | None) -> torch.dtype | None:
    """The torch dtype called float32, bfloat16 or float16; None stays None.

    Raises:
        ValueError: for any other name.
    """
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name is not None and name not in dtypes:
        raise ValueError(f"dtype: expected one of {', '.join(dtypes)}, got {name}")
    return None if name is None else dtypes[name]
