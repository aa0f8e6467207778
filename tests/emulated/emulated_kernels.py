"""A plugin for pytest: emulated CUDA kernels serve the ops, and the engine does on the CPU what it does on a GPU."""

from __future__ import annotations

import os

import pytest
import torch

from flowar import engine, sampling_program
from flowar.engine import Savings

torch.ops.load_library(os.environ["FLOWAR_EMULATED"])  # its kernels take the place of flowar's own


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """All savings, its budget of modulations, and all images at once."""
    monkeypatch.setattr(engine, "default_savings", lambda device: Savings())
    budget = sampling_program.MODULATION_BUDGET
    monkeypatch.setitem(budget, "cpu", budget["accelerator"])
    monkeypatch.setattr(sampling_program, "ACTIVATION_BUDGET", 2**60)
