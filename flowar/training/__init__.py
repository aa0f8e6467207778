"""Training of models and tokenizers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowar.system.lazy import lazy_names

if TYPE_CHECKING:
    from flowar.training.calibration import calibrate
    from flowar.training.config import FinetuneConfig, LossConfig, OptimConfig, TrainConfig, ValidationConfig
    from flowar.training.data_config import DataConfig
    from flowar.training.trainer import train

__all__ = [
    "DataConfig",
    "FinetuneConfig",
    "LossConfig",
    "OptimConfig",
    "TrainConfig",
    "ValidationConfig",
    "calibrate",
    "train",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "calibration": ["calibrate"],
        "config": ["FinetuneConfig", "LossConfig", "OptimConfig", "TrainConfig", "ValidationConfig"],
        "data_config": ["DataConfig"],
        "trainer": ["train"],
    },
)
