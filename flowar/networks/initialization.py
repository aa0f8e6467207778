"""Weights before training: Gaussian embeddings, Xavier matrices, and gates that start closed (adaLN-zero, DiT)."""

from __future__ import annotations

import torch
from torch import nn

from flowar.networks.ar_transformer import ARBlock, ARTransformer
from flowar.networks.flow_transformer import AttnCrossMLPBlock, AttnMLPBlock, FlowTransformer

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
    for module in model.modules():
        for layer in zero_layers(module):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        if isinstance(module, ARTransformer):
            for positions in (module.input_positions, module.middle_positions, module.output_positions):
                nn.init.normal_(positions, std=EMBEDDING_STD)


def zero_layers(module: nn.Module) -> list[nn.Linear]:
    """The layers of a block or of the flow transformer itself that start at zero."""
    if isinstance(module, ARBlock):
        return [module.modulation]
    if isinstance(module, AttnMLPBlock):
        return [module.position_modulation]
    if isinstance(module, AttnCrossMLPBlock):
        return [module.time_modulation, module.position_modulation]
    if isinstance(module, FlowTransformer):
        layers = [module.output_modulation, module.output_proj]
        return layers if module.jump_embed is None else [*layers, module.jump_embed.last]
    return []
