"""Which precision the hardware is good at."""

from __future__ import annotations

import torch

from flowar.errors import first_line


def native_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 faster than float32: Ampere GPUs and later, CPUs with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


def default_device(name: str = "auto") -> torch.device:
    """The device called `name`; "auto" is the GPU if there is one.

    Raises:
        ValueError: for one that this machine, or this build of torch, does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # what torch raises for unknown names and missing hardware
        expected = "auto, cpu, or a GPU of this machine such as cuda:0"
        raise ValueError(f"device: expected {expected}, got {name} ({first_line(error)})") from error


def parse_dtype(name: str | None) -> torch.dtype | None:
    """float32, bfloat16 or float16 by name; None stays None.

    Raises:
        ValueError: for any other name.
    """
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name is not None and name not in dtypes:
        raise ValueError(f"dtype: expected one of {', '.join(dtypes)}, got {name}")
    return None if name is None else dtypes[name]
