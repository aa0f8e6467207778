"""From class labels to pictures: a model and its tokenizer, called as diffusers' pipelines are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowar.system.lazy import lazy_names

if TYPE_CHECKING:
    from flowar.pipeline.options import PictureOptions
    from flowar.pipeline.output import PipelineOutput
    from flowar.pipeline.pipeline import FlowARPipeline

__all__ = ["FlowARPipeline", "PictureOptions", "PipelineOutput"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "options": ["PictureOptions"],
        "output": ["PipelineOutput"],
        "pipeline": ["FlowARPipeline"],
    },
)
