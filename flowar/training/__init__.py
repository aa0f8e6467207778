"""Training of models and tokenizers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowar.system.lazy import lazy_names

if TYPE_CHECKING:
    from flowar.training.calibration import calibrate
    from flowar.training.config import FinetuneConfig, LossConfig, OptimConfig, TrainConfig, ValidationConfig
    from flowar.training.data_config import DataConfig
    from flowar.training.distillation import distill
    from flowar.training.distillation_config import DistillConfig
    from flowar.training.trainer import train

__all__ = [
    "DataConfig",
    "DistillConfig",
    "FinetuneConfig",
    "LossConfig",
    "OptimConfig",
    "TrainConfig",
    "ValidationConfig",
    "calibrate",
    "distill",
    "train",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "calibration": ["calibrate"],
        "config": ["FinetuneConfig", "LossConfig", "OptimConfig", "TrainConfig", "ValidationConfig"],
        "data_config": ["DataConfig"],
        "distillation": ["distill"],
        "distillation_config": ["DistillConfig"],
        "trainer": ["train"],
    },
)
