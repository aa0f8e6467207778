"""Weights before training: Gaussian embeddings, Xavier matrices, and gates that start closed (adaLN-zero, DiT)."""

from __future__ import annotations

import torch
from torch import nn

EMBEDDING_STD = 0.02


@torch.no_grad()
def initialize(model: nn.Module) -> None:
    """Initialise in place. Modulation and output layers start at zero, so that every block starts as the identity."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=EMBEDDING_STD)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name.endswith(("modulation", "output_proj")):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    for name, parameter in model.named_parameters():
        if name.endswith("_positions"):
            nn.init.normal_(parameter, std=EMBEDDING_STD)
