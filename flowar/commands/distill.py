"""`flowar distill`: a model that draws in one to four evaluations a scale; under torchrun on several devices."""

from __future__ import annotations

import logging

from flowar.commands import say
from flowar.training.distillation_config import DistillConfig as Options


def run(options: Options) -> None:
    """Distill to the end, and print where the student is."""
    from flowar.system.ranks import join_ranks
    from flowar.training.distillation import distill

    with join_ranks(options.device) as ranks:
        if not ranks.main:
            logging.getLogger("flowar").setLevel(logging.WARNING)
        folder = distill(options, ranks)
        if ranks.main:
            say(f"student in {folder}")
