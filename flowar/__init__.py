"""FlowAR: scale-wise autoregressive image generation meets flow matching."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowar.config import FlowARConfig
    from flowar.model import FlowAR
    from flowar.pipeline import FlowARPipeline
    from flowar.sampling.schedule import Schedule

__version__ = "0.1.0"
__all__ = ["FlowAR", "FlowARConfig", "FlowARPipeline", "Schedule", "__version__"]

# Imported when first asked for: `flowar doctor` must start where torch or the compiled ops do not load.
_MODULES = {"FlowAR": "model", "FlowARConfig": "config", "FlowARPipeline": "pipeline", "Schedule": "sampling.schedule"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'flowar' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"flowar.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
