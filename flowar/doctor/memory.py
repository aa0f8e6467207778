"""The check that a model fits into the free memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flowar.doctor.finding import Finding, ok, warning, wrong
from flowar.doctor.model_files import is_preset
from flowar.system.memory import free_on_host

if TYPE_CHECKING:
    import torch

    from flowar.config import FlowARConfig

GIB = 2**30
ROOT = Path("/")

# Of a process that draws one image. On a CPU: above all that benchmarks/results/peak_memory-*.json has, by up to a
# tenth. On a GPU, where nothing was measured: float32 weights, their packed copies in bfloat16, CUDA and its graphs.
CPU_FACTOR, CPU_BASE = 1.25, 0.35 * GIB
GPU_FACTOR, GPU_BASE = 1.5, 1.5 * GIB


def memory(model: str) -> Finding:
    """Check that an image of `model`, or of the preset of that name, can be drawn in the free memory."""
    from flowar.system.precision import default_device

    device = default_device()
    needed, free = needed_bytes(model, device), free_bytes(device)
    need = f"{model} needs about {needed / GIB:.1f} GiB for one image"
    if free is None:
        return warning(f"{need}; how much is free is not known here", "see for yourself that there is more")
    if needed > free:
        elsewhere = ", or use --device cpu" if device.type == "cuda" else ""
        remedy = f"end other programs, raise the limit{elsewhere}, or choose a smaller model"
        return wrong(f"{need}, but {free / GIB:.1f} GiB are free on {device}", remedy)
    return ok(f"{need}, {free / GIB:.1f} GiB are free on {device}")


def needed_bytes(model: str, device: torch.device) -> float:
    """An estimate of the most memory of a process that draws one image in the precision "auto"."""
    import torch

    from flowar.system.precision import resolve_precision

    if device.type == "cuda":
        return GPU_FACTOR * weight_bytes(model, torch.float32) + GPU_BASE
    dtype = resolve_precision("auto", device, torch.float32).dtype
    return CPU_FACTOR * weight_bytes(model, dtype) + CPU_BASE


def weight_bytes(model: str, dtype: torch.dtype) -> int:
    """The bytes of the transformers in `dtype`, and of the stored tokenizer if the model has one."""
    from flowar.config import FlowARConfig
    from flowar.storage.checkpoint import read_config
    from flowar.storage.hub import locate

    if is_preset(model):
        return transformer_bytes(FlowARConfig.preset(model), dtype)
    path = locate(model)
    tokenizer = path / "tokenizer.safetensors"
    stored = tokenizer.stat().st_size if tokenizer.exists() else 0
    return transformer_bytes(read_config(path), dtype) + stored


def transformer_bytes(config: FlowARConfig, dtype: torch.dtype) -> int:
    """The bytes of all parameters of a model in `dtype`."""
    from flowar.model import FlowAR
    from flowar.storage.checkpoint import skeleton

    return sum(parameter.nbytes for parameter in skeleton(FlowAR, config, dtype).parameters())


def free_bytes(device: torch.device) -> float | None:
    """The free bytes on `device`; None if the system does not tell."""
    import torch

    return float(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else free_on_host(ROOT)
