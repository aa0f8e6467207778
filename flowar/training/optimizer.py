"""The optimizers, AdamW alone or Muon beside it, and the learning rate over the steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from flowar.errors import DataError
from flowar.training.config import OptimConfig

Optimizer = torch.optim.AdamW | torch.optim.Muon

MOMENTS = {torch.optim.AdamW: ("exp_avg", "exp_avg_sq"), torch.optim.Muon: ("momentum_buffer",)}


def new_optimizers(model: nn.Module, optim: OptimConfig) -> list[Optimizer]:
    """Make AdamW for all parameters of `model` that learn, or Muon for the hidden matrices and AdamW for the others.

    Biases and norms are not decayed. The moments exist from the start, as zeros, so that a checkpoint can fill them.
    """
    matrices = [*hidden_matrices(model)] if optim.optimizer == "muon" else []
    chosen = {id(matrix) for matrix in matrices}
    others = [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in chosen]
    decayed, plain = ([p for p in others if (p.dim() >= 2) == wide] for wide in (True, False))
    groups = [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizers: list[Optimizer] = []
    if others:  # on every device the whole update is one fused kernel
        groups = [group for group in groups if group["params"]]
        optimizers.append(torch.optim.AdamW(groups, optim.lr, optim.betas, fused=True))
    if matrices:
        decay = optim.weight_decay
        optimizers.append(torch.optim.Muon(matrices, optim.lr, decay, adjust_lr_fn="match_rms_adamw"))
    for optimizer in optimizers:
        for parameter in parameters_of(optimizer):
            optimizer.state[parameter] = {name: torch.zeros_like(parameter) for name in MOMENTS[type(optimizer)]}
    set_updates(optimizers, 0)
    return optimizers


def hidden_matrices(model: nn.Module) -> Iterator[Tensor]:
    """Weights of the linear layers that neither read latents nor write them."""
    for name, module in model.named_modules():
        if (
            isinstance(module, nn.Linear)
            and module.weight.requires_grad
            and not name.endswith(("input_proj", "output_proj"))
        ):
            yield module.weight


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def update_weights(optimizers: Sequence[Optimizer], lr: float) -> None:
    """Make one step of every optimizer with learning rate `lr`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()


def moments(model: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, Tensor]:
    """The moments of every parameter, by name."""
    names = dict[Tensor, str]((parameter, name) for name, parameter in model.named_parameters())
    return {
        f"{moment}.{names[parameter]}": optimizer.state[parameter][moment]
        for optimizer in optimizers
        for parameter in parameters_of(optimizer)
        for moment in MOMENTS[type(optimizer)]
    }


def set_updates(optimizers: Sequence[Optimizer], updates: int) -> None:
    """Tell AdamW how many updates it has made; Muon does not count."""
    for optimizer in optimizers:
        if isinstance(optimizer, torch.optim.AdamW):
            for parameter, state in optimizer.state.items():
                state["step"] = torch.tensor(float(updates), device=parameter.device)


def learning_rate(step: int, steps: int, warmup: int, optim: OptimConfig) -> float:
    """The learning rate of a step: linear warm-up over `warmup` steps, then cosine down to `final_lr`, or constant."""
    if step < warmup:
        return optim.lr * (step + 1) / warmup
    if optim.lr_schedule == "constant":
        return optim.lr
    progress = (step - warmup) / max(1, steps - warmup)
    return optim.final_lr + (optim.lr - optim.final_lr) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def total_steps(optim: OptimConfig, images: int) -> int:
    """The number of steps of the run; an epoch drops the images that do not fill a batch.

    Raises:
        DataError: if there are fewer images than one batch.
    """
    if images < optim.batch_size:
        raise DataError(f"batch_size: expected at most the {images} images of the data set, got {optim.batch_size}")
    return optim.steps or epochs_to_steps(optim.epochs or 0, optim, images)


def warmup_steps(optim: OptimConfig, images: int) -> int:
    """The number of steps of the warm-up."""
    if optim.warmup_epochs is None:
        return optim.warmup_steps
    return epochs_to_steps(optim.warmup_epochs, optim, images)


def epochs_to_steps(epochs: float, optim: OptimConfig, images: int) -> int:
    return max(1, round(epochs * (images // optim.batch_size)))
