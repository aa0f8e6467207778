"""Evaluation: metrics of images against a reference, their cards, sweeps over settings, and tuned schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowar.system.lazy import lazy_names

if TYPE_CHECKING:
    from flowar.evaluation.card import read_card
    from flowar.evaluation.compare import compare_cards
    from flowar.evaluation.run import EvaluationConfig, evaluate

__all__ = ["EvaluationConfig", "compare_cards", "evaluate", "read_card"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "card": ["read_card"],
        "compare": ["compare_cards"],
        "run": ["EvaluationConfig", "evaluate"],
    },
)
