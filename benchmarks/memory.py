"""How much memory a variant takes on a GPU, by PyTorch's account."""

from __future__ import annotations

import torch

from flowar.system.hardware import MIB


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
        return (torch.cuda.max_memory_allocated(self.device) - self.before) / MIB
