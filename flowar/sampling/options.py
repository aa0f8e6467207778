"""The options of sampling that a pipeline and the edits pass on to `FlowAR.sample`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    import torch

    from flowar.sampling.callbacks import OnEvaluation, OnScale, OnStepEnd
    from flowar.sampling.schedule import Schedule


class SamplingOptions(TypedDict, total=False):
    """How to sample, as keyword arguments: those of `FlowAR.sample` but `class_labels`, `noise` and `pins`.

    `FlowAR.sample` explains them and has the defaults.
    """

    num_inference_steps: int | None
    guidance_scale: float | None
    guidance_interval: Sequence[float] | None
    schedule: Schedule | str | None
    seed: int | Sequence[int]
    naive: bool
    dtype: torch.dtype | str | None
    progress: bool | Mapping[str, Any] | None
    on_scale: OnScale | None
    on_evaluation: OnEvaluation | None
    on_step_end: OnStepEnd | None
