"""`flowar train`: train a model on a folder of images, or resume a run."""

from __future__ import annotations

from flowar.training.config import TrainConfig as Options
from flowar.training.trainer import train

__all__ = ["Options", "run"]


def run(options: Options) -> None:
    """Train to the end and say where the model is."""
    print(f"model in {train(options)}")
