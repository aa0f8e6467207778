"""Functions that a caller of `sample` gives, to be called on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

OnStep = Callable[[], None]
OnScale = Callable[[int, Tensor], None]
OnEvaluation = Callable[[int, int, Tensor], None]


@dataclass(frozen=True)
class Callbacks:
    """Functions to call while sampling goes on.

    Attributes:
        on_step: called at every evaluation; where scales are CUDA graphs, after each scale as often as it has some.
        on_scale: called with (k, tokens [B, n_k, c]) after every scale.
        on_evaluation: called with (k, i, data [B, n_k, c]) at evaluation i of scale k: the latents that the velocity
            there points at, x - t v. With it, scales are no CUDA graphs, which nobody can look into.
    """

    on_step: OnStep = lambda: None
    on_scale: OnScale | None = None
    on_evaluation: OnEvaluation | None = None
