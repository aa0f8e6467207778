"""diffusers' `callback_on_step_end`: called after every evaluation, with latents that it may replace."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from einops import rearrange
from torch import Tensor

from flowar.errors import FlowARError, shown
from flowar.sampling.callbacks import OnStepEnd
from flowar.sampling.schedule import Schedule
from flowar.system.arguments import check_function, check_type
from flowar.system.tensors import check_tensor

if TYPE_CHECKING:
    from flowar.pipeline.pipeline import FlowARPipeline

TENSORS = ("latents",)  # what a callback may ask for

# Called with (pipeline, number of the step, its time, {"latents": [B, c, h_k, w_k]}); returns the dict, or None.
StepCallback = Callable[[Any, int, float, dict[str, Any]], "Mapping[str, Any] | None"]


def check_tensor_inputs(callback: StepCallback | None, names: Sequence[str]) -> bool:
    """Whether a callback wants the latents.

    Raises:
        FlowARError: for what is no function, and for other names.
    """
    check_function("callback_on_step_end", callback)
    names = getattr(callback, "tensor_inputs", names)  # of diffusers' PipelineCallback
    if isinstance(names, str) or not isinstance(names, Sequence) or not {*names} <= {*TENSORS}:
        expected = f"any of {', '.join(TENSORS)} in a list"
        raise FlowARError(f"callback_on_step_end_tensor_inputs: expected {expected}, got {shown(names)}")
    return "latents" in names


def after_steps(
    pipeline: FlowARPipeline, callback: StepCallback, wants_latents: bool, schedule: Schedule, also: OnStepEnd | None
) -> OnStepEnd:
    """The `on_step_end` of `FlowAR.sample` that calls `also`, if there is one, and a `callback` of diffusers.

    Steps are the evaluations, counted over all scales; the time of each goes from 1, which is noise, to 0.
    """
    grids = pipeline.config.grids
    evaluations = [schedule.evaluations(k, len(grids)) for k in range(len(grids))]
    before = [0, *accumulate(map(len, evaluations))]

    def call(k: int, i: int, state: Tensor) -> None:
        if also is not None:
            also(k, i, state)
        height, width = grids[k]
        latents = rearrange(state, "b (h w) c -> b c h w", h=height).contiguous()
        given = {"latents": latents} if wants_latents else {}
        returned = callback(pipeline, before[k] + i, evaluations[k][i].time, given)
        check_type("callback_on_step_end", returned, (Mapping, type(None)), "a function that returns a dict or None")
        changed = (returned or {}).get("latents")
        if changed is not None:
            check_tensor("callback_on_step_end: latents", changed, (len(state), state.shape[2], height, width), state)
            state.copy_(rearrange(changed, "b c h w -> b (h w) c"))

    return call
