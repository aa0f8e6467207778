"""The peak speed of devices, and the peak memory of the process."""

from __future__ import annotations

import re
import resource
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
MIB = 2**20

# Dense TFLOP/s by the name that CUDA gives: 16-bit factors with float32 sums, TF32, float32 without matrix units. From
# NVIDIA's data sheets "A10", "A100", "H100", "H200", "L4", "L40S" and "Blackwell Architecture" (GB200 NVL72, HGX B200),
# where most say what sparse matrices would reach, twice as much; of GeForce cards from the architecture white papers
# (GA102, Ada, RTX Blackwell). Cards of almost the same name (laptops, "D", "SUPER", slices by MIG) are others.
PEAK_TFLOPS = {
    r"NVIDIA A10": (125.0, 62.5, 31.2),
    r"NVIDIA A100(-| ).*": (312.0, 156.0, 19.5),
    r"NVIDIA H100 80GB HBM3": (989.0, 494.5, 67.0),
    r"NVIDIA H100 PCIe": (756.0, 378.0, 51.0),
    r"NVIDIA H100 NVL": (835.5, 417.5, 60.0),
    r"NVIDIA (GH200 .*|H200)": (989.0, 494.5, 67.0),
    r"NVIDIA H200 NVL": (835.5, 417.5, 60.0),
    r"NVIDIA B200": (2250.0, 1100.0, 75.0),
    r"NVIDIA GB200": (2500.0, 1250.0, 80.0),
    r"NVIDIA L4": (121.0, 60.0, 30.3),
    r"NVIDIA L40S": (362.0, 183.0, 91.6),
    r"NVIDIA GeForce RTX 3090": (71.0, 35.6, 35.6),
    r"NVIDIA GeForce RTX 4090": (165.2, 82.6, 82.6),
    r"NVIDIA GeForce RTX 5090": (209.5, 104.8, 104.8),
}


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """The published peak of dense matrix products, in operations per second; None if it is not known.

    Products of float32 are TF32 if torch is set to that now.
    """
    if device.type != "cuda" or "MIG" in (name := torch.cuda.get_device_name(device)):
        return None
    half, tf32, single = next((rates for known, rates in PEAK_TFLOPS.items() if re.fullmatch(known, name)), (None,) * 3)
    if dtype == torch.float32:
        rate = tf32 if torch.backends.cuda.matmul.fp32_precision == "tf32" else single
    else:
        rate = half if dtype in (torch.bfloat16, torch.float16) else None
    return None if rate is None else rate * 1e12


def widest_float(device: torch.device) -> torch.dtype:
    """The widest floating dtype of a device: float64, but float32 on accelerators other than CUDA's.

    Apple's have no float64, and Intel's not always.
    """
    return torch.float64 if device.type in ("cpu", "cuda", "meta") else torch.float32


def peak_memory_mib(device: torch.device) -> float:
    """The peak memory so far in MiB: what PyTorch has had in use on a GPU, or what the process has had resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    return peak_resident_mib()


def peak_resident_mib() -> float:
    """The most memory, in MiB, that this process has had resident so far.

    Linux's own record starts with the program; `ru_maxrss` would start with what the parent had.
    """
    if STATUS.exists():
        return resident_mib("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB  # macOS counts in bytes


def resident_mib(field: str) -> float:
    """The resident memory of this process in MiB, now ("VmRSS") or at most so far ("VmHWM"), by Linux's account."""
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 2**10
