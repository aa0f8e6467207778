"""Models to measure."""

from __future__ import annotations

import torch
from torch import nn

from flowar import FlowAR, FlowARConfig
from flowar.config import PRESETS
from flowar.storage.checkpoint import skeleton
from flowar.training.distillation import student_config

JUMPS = 4  # of a student that has learned nothing: the most a scale that a named schedule has


def load_model(name: str, device: torch.device, student: bool = False) -> FlowAR:
    """A preset, or a student of it, with weights of no meaning, made on the device; or a trained model."""
    if name.upper() not in PRESETS:
        return FlowAR.from_pretrained(name).to(device)
    preset = FlowARConfig.preset(name)
    config = student_config(preset, JUMPS) if student else preset
    model = skeleton(FlowAR, config, torch.float32).to_empty(device=device)
    fill_weights(model)
    return model


@torch.no_grad()
def fill_weights(model: nn.Module, seed: int = 0) -> None:
    """Deterministic weights under which every layer matters: at initialisation, gates and output are zero.

    Matrices are normal, scaled by their fan-in; norms are near 1. The output is damped, so that sampling is well
    conditioned and two correct ways to compute it stay close.
    """
    for index, (name, parameter) in enumerate(model.named_parameters()):
        generator = torch.Generator(parameter.device).manual_seed(seed + index)
        parameter.normal_(generator=generator)
        if name.endswith("norm.weight"):
            parameter.mul_(0.1).add_(1)
        else:
            damping = 0.1 if "output_proj" in name else 1.0
            parameter.mul_(damping / parameter[0].numel() ** 0.5 if parameter.dim() > 1 else 0.1)
