"""Small training runs, for tests."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from conftest import SMALL

from flowar.training.config import OptimConfig, TrainConfig, ValidationConfig
from flowar.training.data_config import DataConfig

MODEL = replace(SMALL, num_classes=10, num_inference_steps=2)
MACHINE = ("images_per_second", "tflops_per_device", "seconds", "data_seconds", "peak_memory_mib")  # differ every time


def run_config(data: Path, output: Path, **changes: Any) -> TrainConfig:
    """A run of 6 steps of 8 images; pixels of 8x8 images are latents of 4x4."""
    optim = OptimConfig(**({"batch_size": 8, "steps": 6, "lr": 1e-3, "warmup_steps": 2} | changes.pop("optim", {})))
    small = {
        "model": MODEL,
        "device": "cpu",
        "log_every": 1,
        "sample_every": 0,
        "save_every": 3,
    }
    return TrainConfig(DataConfig(str(data), "pixel:2"), str(output), optim=optim, **(small | changes))


def read_config(path: Path) -> TrainConfig:
    """The configuration of a run that a test wrote to a JSON file for another process."""
    options = json.loads(path.read_text())
    model = replace(MODEL, **options.pop("model", {}))
    data, output = (Path(options.pop(name)) for name in ("data", "output"))
    optim = OptimConfig(**options.pop("optim"))
    validation = ValidationConfig(**options.pop("validation", {}))
    return replace(run_config(data, output, model=model, **options), optim=optim, validation=validation)


def rows(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl, without the values that depend on the machine."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in MACHINE} for row in found]
