"""The decoded picture after every scale, and at every evaluation if asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowar.sampling.callbacks import OnEvaluation, OnScale
from flowar.show.states import decode_tokens

if TYPE_CHECKING:
    from PIL.Image import Image

    from flowar.pipeline import FlowARPipeline

Preview = Callable[[int, "list[Image]"], None]


def after_scales(pipeline: FlowARPipeline, preview: Preview, before: OnScale | None = None) -> OnScale:
    """An `on_scale` of `FlowAR.sample` that calls `preview` with (k, pictures [B] of full size) after every scale.

    The latents of a coarse scale are brought to the finest grid (bicubic) and decoded; those of the last scale give the
    result itself. `before` is an `on_scale` to call first.
    """

    def on_scale(scale: int, tokens: Tensor) -> None:
        if before is not None:
            before(scale, tokens)
        preview(scale, decoded(pipeline, tokens, scale))

    return on_scale


def at_evaluations(pipeline: FlowARPipeline, preview: Preview, before: OnEvaluation | None = None) -> OnEvaluation:
    """An `on_evaluation` of `FlowAR.sample` that calls `preview` as `after_scales` does.

    What it shows is where the velocity points at: the state itself is still full of noise.
    """

    def on_evaluation(scale: int, evaluation: int, tokens: Tensor) -> None:
        if before is not None:
            before(scale, evaluation, tokens)
        preview(scale, decoded(pipeline, tokens, scale))

    return on_evaluation


def decoded(pipeline: FlowARPipeline, tokens: Tensor, scale: int) -> list[Image]:
    """Pictures of tokens [B, n_k, c], in the middle of sampling."""
    with torch.autocast(tokens.device.type, enabled=False):  # the naive path's is for the networks alone
        return decode_tokens(pipeline, tokens, scale)
