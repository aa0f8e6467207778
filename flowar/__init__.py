"""FlowAR: scale-wise autoregressive image generation meets flow matching."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowar.system.lazy import lazy_names

if TYPE_CHECKING:
    from flowar.config import FlowARConfig
    from flowar.model import FlowAR
    from flowar.pipeline import FlowARPipeline
    from flowar.sampling.schedule import Schedule

__version__ = "0.1.0"
__all__ = ["FlowAR", "FlowARConfig", "FlowARPipeline", "Schedule", "__version__"]

# Imported when first asked for: `flowar doctor` must start where torch or the compiled ops do not load.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "config": ["FlowARConfig"],
        "model": ["FlowAR"],
        "pipeline": ["FlowARPipeline"],
        "sampling.schedule": ["Schedule"],
    },
)
