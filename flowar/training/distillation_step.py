"""A step of distillation: the student's mean velocities against those of its teacher, and of its own average."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from flowar.model import FlowAR, Loss
from flowar.networks.flow_transformer import over_tokens
from flowar.system.ranks import Ranks
from flowar.training.distillation_config import DistillConfig
from flowar.training.draws import Stream
from flowar.training.jump_targets import Jumps, Teacher, draw_jumps, split_mean
from flowar.training.state import TrainState
from flowar.training.step import Batch, OptimizerStep, draw_context_noise, forward_precision

FLOW = "flow_transformer."


class JumpLoss(nn.Module):
    """The loss of a student's flow transformer; a module, so that torch's wrappers for training can hold it."""

    def __init__(self, student: FlowAR) -> None:
        super().__init__()
        self.student = student

    def forward(self, x_t: Tensor, z: Tensor, t: Tensor, r: Tensor, target: Tensor, scale_exponent: float) -> Loss:
        """The loss of the mean velocities from t to r [B, K] at x_t [B, S, c] that are to be `target` [B, S, c]."""
        lengths = self.student.config.scale_lengths
        velocity = self.student.flow_transformer(x_t, t, z, range(len(lengths)), r)
        return Loss.of(velocity, target, lengths, scale_exponent)


class DistillationStep(OptimizerStep):
    """Trains the student of a `state` by one batch per call; conditions come from the teacher's AR transformer."""

    config: DistillConfig

    def __init__(
        self, state: TrainState, config: DistillConfig, ranks: Ranks, distributed: nn.Module, teacher: Teacher
    ) -> None:
        """Prepare the steps; `distributed` is a `JumpLoss` of the state's model, or DDP around one."""
        super().__init__(state, config, ranks, distributed)
        self.teacher, self.lengths = teacher, state.model.config.scale_lengths
        named = state.averages.by_decay[self.optim.ema_decays[0]]
        self.average = {name.removeprefix(FLOW): each for name, each in named.items() if name.startswith(FLOW)}

    def _loss(self, part: Batch) -> tuple[Loss, Tensor]:
        """The loss of a part of a batch, and the times [K, B] that its intervals begin at."""
        with torch.no_grad(), forward_precision(self.precision, self.ranks.device):
            x_t, z, null_z, jumps = self._states(part)
            target = self._targets(x_t, z, null_z, jumps)
        with forward_precision(self.precision, self.ranks.device):
            loss = self.forward(x_t, z, jumps.t, jumps.r, target, self.config.scale_exponent)
        return loss, jumps.t.T

    def _states(self, part: Batch) -> tuple[Tensor, Tensor, Tensor, Jumps]:
        """States [B, S, c] at the begin of drawn intervals, conditions [B, S, D] of both halves, the intervals."""
        draws, model, strength = part.draws, self.teacher.model, self.config.context_noise
        config = model.config
        jumps = draw_jumps(draws, len(self.lengths), self.config.jumps, self.config.teacher_share)
        noise = draws.normal(Stream.NOISE, (config.tokens, config.latent_channels))
        context_noise = draw_context_noise(draws, strength, config) if strength else None
        targets, _ = model.pyramid(part.latents)
        t = over_tokens(jumps.t[..., None], self.lengths)  # [B, S, 1]
        null_labels = torch.full_like(part.class_labels, config.null_class)
        z, null_z = (
            model.conditions(part.latents, labels, context_noise) for labels in (part.class_labels, null_labels)
        )
        return torch.lerp(targets, noise, t), z, null_z, jumps

    def _targets(self, x_t: Tensor, z: Tensor, null_z: Tensor, jumps: Jumps) -> Tensor:
        """The mean velocities [B, S, c] to learn."""
        taught, own = jumps.taught.nonzero().flatten(), (~jumps.taught).nonzero().flatten()
        target = torch.empty_like(x_t)
        if len(taught):
            t, r = jumps.t[taught], jumps.r[taught]
            target[taught] = self.teacher.mean_velocity(x_t[taught], z[taught], null_z[taught], t, r)
        if len(own):
            halved = Jumps(jumps.t[own], jumps.r[own], jumps.taught[own])
            target[own] = split_mean(self._average_velocity, x_t[own], z[own], halved, self.lengths)
        return target

    def _average_velocity(self, x_t: Tensor, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """The mean velocity [B, S, c] of the averaged student from t to r [B, K]."""
        flow = self.state.model.flow_transformer
        scales = range(len(self.lengths))
        velocity: Tensor = functional_call(flow, self.average, (x_t, t, z, scales, r), strict=False)
        return velocity
