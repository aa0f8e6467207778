"""`flowar train`: train a model on images, or resume a run; under torchrun on several devices."""

from __future__ import annotations

import logging

from flowar.commands import say
from flowar.training.config import TrainConfig as Options


def run(options: Options) -> None:
    """Train to the end, and print where the model is."""
    from flowar.system.ranks import join_ranks
    from flowar.training.trainer import train

    with join_ranks(options.device) as ranks:
        if not ranks.main:
            logging.getLogger("flowar").setLevel(logging.WARNING)
        folder = train(options, ranks)
        if ranks.main:
            say(f"model in {folder}")
