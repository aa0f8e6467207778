"""FlowAR: scale-wise autoregressive image generation meets flow matching."""
