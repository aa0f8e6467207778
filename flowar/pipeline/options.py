"""The options of a pipeline's call, for functions that pass them on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from flowar.sampling.options import SamplingOptions

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from flowar.pipeline.step_end import StepCallback

Preview = Callable[[int, "list[Image]"], None]  # called with (k, pictures [B] of full size)


class PictureOptions(SamplingOptions, total=False):
    """How to draw pictures, as keyword arguments: of those of a pipeline's call the ones that edits take too.

    `FlowARPipeline.__call__` explains them and has the defaults.
    """

    generator: torch.Generator | Sequence[torch.Generator] | None
    callback_on_step_end: StepCallback | None
    callback_on_step_end_tensor_inputs: Sequence[str]
    preview: Preview | None
    preview_steps: bool
