"""AdamW, and the course of its learning rate."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from flowar.errors import DataError
from flowar.training.config import OptimConfig

MOMENTS = ("exp_avg", "exp_avg_sq")


def new_optimizer(model: nn.Module, optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW over `model`, whose moments are there from the start: zeros, as its first step would make them.

    Biases and norms are not decayed. On every device the whole update is one fused kernel.
    """
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    plain = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], optim.lr, optim.betas, fused=True)
    for parameter in model.parameters():
        optimizer.state[parameter] = {name: torch.zeros_like(parameter) for name in MOMENTS}
    set_updates(optimizer, 0)
    return optimizer


def moments(model: nn.Module, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """The moments of every parameter, by name."""
    return {
        f"{moment}.{name}": optimizer.state[parameter][moment]
        for name, parameter in model.named_parameters()
        for moment in MOMENTS
    }


def set_updates(optimizer: torch.optim.AdamW, updates: int) -> None:
    """Tell the optimizer how many updates it has made."""
    for parameter, state in optimizer.state.items():
        state["step"] = torch.tensor(float(updates), device=parameter.device)


def learning_rate(step: int, steps: int, warmup: int, optim: OptimConfig) -> float:
    """Linear warm-up over `warmup` steps; then cosine from `lr` to `final_lr` at the last step, or constant."""
    if step < warmup:
        return optim.lr * (step + 1) / warmup
    if optim.lr_schedule == "constant":
        return optim.lr
    progress = (step - warmup) / max(1, steps - warmup)
    return optim.final_lr + (optim.lr - optim.final_lr) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def total_steps(optim: OptimConfig, images: int) -> int:
    """Steps of the run; an epoch drops the images that do not fill a batch.

    Raises:
        DataError: if there are fewer images than one batch.
    """
    if images < optim.batch_size:
        raise DataError(f"batch_size: expected at most the {images} images of the data set, got {optim.batch_size}")
    return optim.steps or epochs_to_steps(optim.epochs or 0, optim, images)


def warmup_steps(optim: OptimConfig, images: int) -> int:
    """Steps of the warm-up."""
    if optim.warmup_epochs is None:
        return optim.warmup_steps
    return epochs_to_steps(optim.warmup_epochs, optim, images)


def epochs_to_steps(epochs: float, optim: OptimConfig, images: int) -> int:
    return max(1, round(epochs * (images // optim.batch_size)))
