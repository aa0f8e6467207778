"""How much memory: of a GPU by PyTorch's account, of a process by Linux's."""

from __future__ import annotations

from pathlib import Path

import torch

STATUS = Path("/proc/self/status")


class PeakMemory:
    """What a variant adds to the GPU's memory as it begins: packed weights, buffers, activations at their most."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.before = device, 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)

    def mebibytes(self) -> float | None:
        """The peak so far; None on a CPU, where nobody counts."""
        if self.device.type != "cuda":
            return None
        return (torch.cuda.max_memory_allocated(self.device) - self.before) / 2**20


def resident_mib(field: str) -> float:
    """MiB of memory that this process has now ("VmRSS") or has had at most ("VmHWM")."""
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 2**10
