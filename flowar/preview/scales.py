"""The decoded picture after every scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowar.show.states import decode_tokens

if TYPE_CHECKING:
    from PIL.Image import Image

    from flowar.pipeline import FlowARPipeline

Preview = Callable[[int, "list[Image]"], None]
OnScale = Callable[[int, Tensor], None]


def decoded(pipeline: FlowARPipeline, preview: Preview, before: OnScale | None = None) -> OnScale:
    """An `on_scale` of `FlowAR.sample` that calls `preview` with (k, pictures [B] of full size) after every scale.

    The latents of a coarse scale are brought to the finest grid (bicubic) and decoded; those of the last scale give the
    result itself. `before` is an `on_scale` to call first.
    """

    def on_scale(scale: int, tokens: Tensor) -> None:
        if before is not None:
            before(scale, tokens)
        with torch.autocast(tokens.device.type, enabled=False):  # the naive path's is for the networks alone
            preview(scale, decode_tokens(pipeline, tokens, scale))

    return on_scale
