"""A plugin for pytest: emulated CUDA kernels serve the ops, and the engine does on the CPU what it does on a GPU."""

from __future__ import annotations

import os

import pytest
import torch

from flowar.engine import plan as plan_module
from flowar.engine import program as program_module
from flowar.engine import steering as steering_module
from flowar.engine.packed import Savings

torch.ops.load_library(os.environ["FLOWAR_EMULATED"])  # its kernels take the place of flowar's own


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """All savings, its budget of modulations, and all images at once."""
    monkeypatch.setattr(plan_module, "default_savings", lambda device: Savings())
    budget = steering_module.MODULATION_BUDGET
    monkeypatch.setitem(budget, "cpu", budget["accelerator"])
    monkeypatch.setattr(program_module, "ACTIVATION_BUDGET", 2**60)
