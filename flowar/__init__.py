"""FlowAR: scale-wise autoregressive image generation meets flow matching."""

from flowar.config import FlowARConfig
from flowar.model import FlowAR
from flowar.pipeline import FlowARPipeline
from flowar.schedule import Schedule

__version__ = "0.1.0"
__all__ = ["FlowAR", "FlowARConfig", "FlowARPipeline", "Schedule", "__version__"]
