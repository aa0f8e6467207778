"""Functions that a caller of `sample` gives, to be called on the way."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

OnStep = Callable[[], None]
OnScale = Callable[[int, Tensor], None]
OnEvaluation = Callable[[int, int, Tensor], None]
OnStepEnd = Callable[[int, int, Tensor], None]
Constrain = Callable[[float, float], None]


@dataclass(frozen=True)
class Callbacks:
    """Functions to call while sampling goes on.

    Attributes:
        on_step: called at every evaluation; where scales are CUDA graphs, after each scale as often as it has some.
        on_scale: called with (k, tokens [B, n_k, c]) after every scale.
        on_evaluation: called with (k, i, data [B, n_k, c]) at evaluation i of scale k: the latents that the velocity
            there points at, x - t v.
        on_step_end: called with (k, i, state [B, n_k, c]) after evaluation i of scale k; may change the state.
    """

    on_step: OnStep = lambda: None
    on_scale: OnScale | None = None
    on_evaluation: OnEvaluation | None = None
    on_step_end: OnStepEnd | None = None

    @property
    def watch_inside(self) -> bool:
        """Whether they look into a scale: it is then no CUDA graph, into which nobody can look, and not in groups."""
        return self.on_evaluation is not None or self.on_step_end is not None

    def after_steps(self, k: int, state: Tensor, constrain: Constrain | None) -> Constrain | None:
        """What becomes of the state of scale k after every evaluation: `constrain`, then `on_step_end`."""
        on_step_end = self.on_step_end
        if on_step_end is None:
            return constrain
        steps = itertools.count()

        def both(before: float, t: float) -> None:
            if constrain is not None:
                constrain(before, t)
            on_step_end(k, next(steps), state)

        return both
