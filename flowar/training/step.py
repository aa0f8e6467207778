"""A step of training: the gradients of a batch, added up over its parts, and the update of the weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flowar.config import FlowARConfig, require
from flowar.errors import TrainingError
from flowar.model import Loss
from flowar.networks.flow_transformer import over_tokens
from flowar.sampling.noise import mix
from flowar.system.precision import PRECISIONS, Precision, matmul_precision, native_bfloat16
from flowar.system.ranks import Ranks
from flowar.training import nan_trace
from flowar.training.config import LossConfig, RunConfig, TrainConfig, TrainPrecision
from flowar.training.draws import Draws, Stream
from flowar.training.optimizer import update_weights
from flowar.training.parallel import clip_gradients, gradients_stay
from flowar.training.state import TrainState

REMEDY = "a lower lr, qk_norm or precision float32 may help; --nan_trace names the op"


class Batch(NamedTuple):
    """Images of a step: their latents [B, c, h, w], their labels [B], and their random numbers."""

    latents: Tensor
    class_labels: Tensor
    draws: Draws

    def parts(self, size: int) -> Iterator[Batch]:
        """Yield parts of at most `size` images."""
        for start in range(0, len(self.latents), size):
            part = slice(start, start + size)
            yield Batch(self.latents[part], self.class_labels[part], Draws(self.draws.seeds[part]))

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`; labels stay on the host, where the model checks them without waiting for a GPU."""
        if device.type != "cuda":
            return Batch(self.latents.to(device), self.class_labels, self.draws.to(device))
        latents, seeds = (each.pin_memory().to(device, non_blocking=True) for each in (self.latents, self.draws.seeds))
        return Batch(latents, self.class_labels, Draws(seeds))


@dataclass
class Outcome:
    """The outcome of a step.

    Attributes:
        losses: the losses of this rank's parts, with the times [K, B] of each.
        grad_norm: the gradient norm before clipping, over all ranks (a scalar).
        skipped: whether the weights were left as they were.
    """

    losses: list[tuple[Loss, Tensor]]
    grad_norm: Tensor
    skipped: bool


class OptimizerStep(ABC):
    """Trains the model of a `state` by one batch per call, whatever its loss is."""

    def __init__(self, state: TrainState, config: RunConfig, ranks: Ranks, distributed: nn.Module) -> None:
        """Prepare the steps; `distributed` is `parallelize` of what computes the loss of the state's model."""
        self.state, self.config, self.optim, self.ranks = state, config, config.optim, ranks
        self.distributed = distributed
        self.forward: Callable[..., Loss] = torch.compile(distributed) if config.compile else distributed
        self.precision = training_precision(config.precision, ranks.device)
        self.parameters = [each for each in state.model.parameters() if each.requires_grad]

    def __call__(self, batch: Batch, lr: float) -> Outcome:
        """Make a step with this rank's part of a batch, on its device.

        Raises:
            TrainingError: after too many skipped steps in a row, or with the finding of `nan_trace`.
        """
        state, limit = self.state, self.optim.skip_grad_norm
        losses = self._gradients(batch)
        grad_norm = clip_gradients(self.parameters, self.optim.max_grad_norm)
        norm = grad_norm.item()
        skipped = not (norm < float("inf")) or (limit is not None and norm > limit)  # true of NaN too
        if skipped:
            self._look_closer(batch, norm)
        else:
            update_weights(state.optimizers, lr)
            state.updates += 1
            state.averages.update(state.updates)
        state.step += 1
        state.skipped_in_a_row = state.skipped_in_a_row + 1 if skipped else 0
        if state.skipped_in_a_row >= self.optim.max_skipped:
            count = state.skipped_in_a_row
            raise TrainingError(f"step {state.step}: {count} skipped in a row, gradient norm {norm}; {REMEDY}")
        return Outcome(losses, grad_norm, skipped)

    def _gradients(self, batch: Batch) -> list[tuple[Loss, Tensor]]:
        """Leave the mean gradients of the batch in the parameters, and return the losses of its parts."""
        state = self.state
        state.model.train()
        state.model.zero_grad(set_to_none=True)
        # Dropout's generators, so that a resumed run, or this step run again, drops the same.
        torch.manual_seed(mix(mix(self.config.seed) + state.step * self.ranks.world_size + self.ranks.rank))
        parts = [*batch.parts(self.config.micro_batch or len(batch.latents))]
        losses = []
        for number, part in enumerate(parts, 1):
            last = number == len(parts)
            with matmul_precision(self.precision), nullcontext() if last else gradients_stay(self.distributed):
                out, times = self._loss(part)
                (out.loss * (len(part.latents) / len(batch.latents))).backward()
            losses.append((Loss(*(each.detach() for each in out)), times))
        return losses

    @abstractmethod
    def _loss(self, part: Batch) -> tuple[Loss, Tensor]:
        """The loss of a part of a batch, and the times [K, B] that it was taken at."""

    def _look_closer(self, batch: Batch, norm: float) -> None:
        """Run a bad step again under `nan_trace`, if that was asked for."""
        if not self.config.nan_trace or norm < float("inf"):
            return
        self.forward = self.distributed  # not compiled
        found = nan_trace.trace(self.state.model, lambda: self._gradients(batch))
        reason = found or f"gradient norm {norm}, though all is finite when the step runs again on cleared memory"
        raise TrainingError(f"step {self.state.step + 1}: {reason}")


class TrainingStep(OptimizerStep):
    """A step by the loss of flow matching."""

    config: TrainConfig

    def _loss(self, part: Batch) -> tuple[Loss, Tensor]:
        config, draws, loss = self.state.model.config, part.draws, self.config.loss
        times = draw_times(draws, loss, len(config.grids))
        noise = draws.normal(Stream.NOISE, (config.tokens, config.latent_channels))
        dropped = draws.uniform(Stream.LABELS) < config.class_dropout
        context_noise = draw_context_noise(draws, loss.context_noise, config) if loss.context_noise else None
        with forward_precision(self.precision, self.ranks.device):
            out = self.forward(
                part.latents, part.class_labels, noise, times, dropped, context_noise, loss.scale_exponent
            )
        return out, times


def draw_times(draws: Draws, loss: LossConfig, scales: int) -> Tensor:
    """Times [K, B] in [0, 1], of the configured distribution."""
    if loss.times == "logit_normal":
        return draws.normal(Stream.TIMES, (scales,)).sigmoid().T
    return draws.uniform(Stream.TIMES, (scales,)).T


def draw_context_noise(draws: Draws, strength: float, config: FlowARConfig) -> Tensor:
    """Noise [B, S - n_last, c] for every scale but the last, up to `strength` for each image and scale."""
    lengths = config.scale_lengths[:-1]
    strengths = strength * draws.uniform(Stream.CONTEXT_STRENGTH, (len(lengths), 1))
    noise = draws.normal(Stream.CONTEXT, (sum(lengths), config.latent_channels))
    return over_tokens(strengths, lengths) * noise


def chosen_precision(name: TrainPrecision, device: torch.device) -> TrainPrecision:
    """The precision that `name` means on `device`: "auto" is bf16 if the hardware is good at it, else float32."""
    if name == "auto":
        return "bf16" if native_bfloat16(device) else "float32"
    return name


def training_precision(name: TrainPrecision, device: torch.device) -> Precision:
    """The precision of the networks for a configured `name` on `device`."""
    chosen = chosen_precision(name, device)
    return PRECISIONS[{"bf16": "bfloat16"}.get(chosen, chosen)]


@contextmanager
def forward_precision(precision: Precision, device: torch.device) -> Iterator[None]:
    """Run the networks in `precision` in this context; bfloat16 is autocast over float32 weights."""
    bf16 = precision.dtype == torch.bfloat16
    with matmul_precision(precision), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        yield


def check_shares(config: RunConfig, world_size: int) -> None:
    """Check that every device gets equally many images, and takes them in equal parts.

    Raises:
        ValueError: naming the option.
    """
    batch, micro = config.optim.batch_size, config.micro_batch
    require("batch_size", f"a multiple of the {world_size} processes", batch, batch % world_size == 0)
    share = batch // world_size
    even = micro is None or share % micro == 0
    require("micro_batch", f"a divisor of the {share} images a device", micro, even)
