"""The ways to train that are compared: each takes a batch and gives its loss; what follows is the same for all."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import get_args

import torch
from naive_training import Batch, NaiveTraining
from torch import Tensor, nn

from flowar import FlowAR
from flowar.model import Checkpointing, Loss
from flowar.system.hardware import MIB
from flowar.system.precision import PRECISIONS, Precision, matmul_precision

NAIVE, FLOWAR, COMPILED = "naive", "flowar", " + torch.compile"
MAX_GRAD_NORM, EMA_DECAY = 1.0, 0.9999

LossOf = Callable[[Batch], Tensor]


@dataclass(frozen=True)
class Variant:
    """One way to compute the loss, in one precision."""

    loss: LossOf
    precision: Precision

    def backward(self, batch: Batch) -> Tensor:
        """The loss; its gradients are added to the parameters'."""
        with self.settings(batch.latents.device):
            loss = self.loss(batch)
        with matmul_precision(self.precision):
            loss.backward()
        return loss.detach()

    def settings(self, device: torch.device) -> AbstractContextManager[object]:
        """Autocast for 16 bits; for float32 on a GPU, how its products are rounded."""
        stack = ExitStack()
        stack.enter_context(matmul_precision(self.precision))
        if self.precision.dtype != torch.float32:
            stack.enter_context(torch.autocast(device.type, self.precision.dtype))
        return stack


def variants(model: FlowAR, precisions: Sequence[str], compiled: Sequence[str]) -> dict[str, Callable[[], Variant]]:
    """By name, made when called: naive and flowar in every precision; in the last one also flowar with checkpointing,
    and those that `compiled` names under torch.compile."""
    made: dict[str, Callable[[], Variant]] = {}

    def add(title: str, name: str, loss: Callable[[], LossOf]) -> None:
        made[title] = lambda: Variant(loss(), PRECISIONS[name])

    for name in precisions:
        add(f"{NAIVE} {name}", name, lambda: NaiveTraining(model).loss)
        add(f"{FLOWAR} {name}", name, lambda: flowar_loss(model.loss))
    last = precisions[-1]
    for which in get_args(Checkpointing)[1:]:
        add(f"{FLOWAR} {last}, checkpointing {which}", last, lambda which=which: checkpointed_loss(model, which))
    if NAIVE in compiled:
        add(f"{NAIVE} {last}{COMPILED}", last, lambda: NaiveTraining(model, compiled=True).loss)
    if FLOWAR in compiled:
        add(f"{FLOWAR} {last}{COMPILED}", last, lambda: flowar_loss(torch.compile(model.loss)))
    return made


def flowar_loss(function: Callable[..., Loss]) -> LossOf:
    """`FlowAR.loss`, as it is or compiled."""

    def loss(batch: Batch) -> Tensor:
        return function(batch.latents, batch.labels, batch.noise, batch.times, batch.dropped).loss

    return loss


def checkpointed_loss(model: FlowAR, which: Checkpointing) -> LossOf:
    """`FlowAR.loss` whose backward computes activations again."""
    plain = flowar_loss(model.loss)

    def loss(batch: Batch) -> Tensor:
        before = model.checkpointing
        model.checkpointing = which
        try:
            return plain(batch)
        finally:
            model.checkpointing = before

    return loss


class Step:
    """A training step but for its loss: clipping, AdamW, averaged weights.

    The learning rate is 0, so that all variants share one state, and each finds the weights as they were.
    """

    def __init__(self, model: FlowAR) -> None:
        self.parameters = list(model.parameters())
        self.ema = list(copy.deepcopy(model).requires_grad_(False).parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=0.0, betas=(0.9, 0.95), fused=True)

    def run(self, variant: Variant, batch: Batch) -> Tensor:
        """One step; its loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = variant.backward(batch)
        nn.utils.clip_grad_norm_(self.parameters, MAX_GRAD_NORM)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.ema, self.parameters, 1 - EMA_DECAY)
        return loss


def random_batch(model: FlowAR, size: int, device: torch.device) -> Batch:
    """Latents of the statistics that tokenizers are normalised to, one label in ten dropped."""
    config, generator = model.config, torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    indices = torch.arange(size, device=device)
    times = torch.rand(len(config.grids), size, generator=generator, device=device)
    latents, noise = (
        normal(size, config.latent_channels, *config.grid),
        normal(size, config.tokens, config.latent_channels),
    )
    return Batch(latents, indices % config.num_classes, noise, times, indices % 10 == 9)


def saved_mib(variant: Variant, batch: Batch, parameters: Iterable[Tensor]) -> float:
    """MiB that forward keeps for backward, `parameters` aside."""
    known = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    kept: dict[int, Tensor] = {}  # a tensor of every storage: held, so that no other takes its place

    def keep(tensor: Tensor) -> Tensor:
        if (storage := tensor.untyped_storage().data_ptr()) not in known:
            kept.setdefault(storage, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), variant.settings(batch.latents.device):
        variant.loss(batch)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / MIB
