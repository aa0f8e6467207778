"""Students of other kinds than `flowar distill` makes: other ways to let in where a jump goes, and other targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from flowar import FlowAR, FlowARConfig, ops
from flowar.model import Loss
from flowar.networks.flow_transformer import BlockContext, FlowTransformer, over_tokens
from flowar.training.distillation import new_student
from flowar.training.distillation_step import DistillationStep
from flowar.training.jump_targets import Jumps
from flowar.training.step import Batch, forward_precision

NEAR = 0.005  # between the times that a derivative is taken from
JUMPS = 32  # the most a scale, as of `flowar distill`


class DecoupledFlow(FlowTransformer):
    """The first half of the blocks sees the time t of a jump, the rest and the output the time r that it arrives at.

    So no parameters are new (Decoupled MeanFlow, arXiv 2510.24474); at r = t it is the teacher's network.
    """

    def __init__(self, config: FlowARConfig) -> None:
        super().__init__(config)
        self.jump_embed = None

    def forward(self, x_t: Tensor, t: Tensor, z: Tensor, scales: Sequence[int], r: Tensor | None = None) -> Tensor:
        """The mean velocity [B, N, c] at x_t [B, N, c] from t to r [B, K], under conditions z [B, N, D]."""
        lengths, rotation = [self.lengths[k] for k in scales], self.rotation(scales)
        conditions, stream = self.condition_embed(z), self._embed(x_t)
        for number, block in enumerate(self.blocks):
            tau = self.time_embed(t if r is None or number < len(self.blocks) // 2 else r)  # [B, K, W]
            steer = ops.silu_add(conditions, over_tokens(tau, lengths))
            by_time = block.by_time(F.silu(tau))
            if by_time is not None:
                by_time = over_tokens(by_time, lengths)
            context = BlockContext(block.position_modulation(steer), by_time, block.keys_values(z, rotation))
            stream = block(stream, context, rotation, lengths)
        return self._velocity(stream, self.output_modulation(steer))


class MeanFlowStep(DistillationStep):
    """Learns from MeanFlow's identity (arXiv 2505.13447) instead of jumps of half the length.

    u(x_t, t, r) = v(x_t, t) - (t - r) d/dt u(x_t, t, r), with v the guided teacher's and the derivative along its path.
    """

    def _loss(self, part: Batch) -> tuple[Loss, Tensor]:
        device = self.ranks.device
        with torch.no_grad(), forward_precision(self.precision, device):
            x_t, z, null_z, jumps = self._states(part)
            velocity = self.teacher.guided_velocity(x_t, z, null_z, jumps.t)
            derivative = self._derivative(x_t, z, jumps, velocity)
            target = velocity - self._over_tokens(jumps.t - jumps.r) * derivative
        with forward_precision(self.precision, device):
            loss = self.forward(x_t, z, jumps.t, jumps.r, target, self.config.scale_exponent)
        return loss, jumps.t.T

    def _derivative(self, x_t: Tensor, z: Tensor, jumps: Jumps, velocity: Tensor) -> Tensor:
        """How fast the student's mean velocity [B, S, c] to a fixed r changes along the path of the teacher.

        A difference of two: the embedding of times is a step function (of 1 / 1000), whose derivative is zero.
        """
        flow, scales, t = self.state.model.flow_transformer, range(len(self.lengths)), jumps.t
        times = (t + NEAR).clamp(max=1), (t - NEAR).clamp(min=0)
        after, before = (
            flow(x_t + self._over_tokens(time - t) * velocity, time, z, scales, jumps.r).float() for time in times
        )
        return (after - before) / self._over_tokens(times[0] - times[1])

    def _over_tokens(self, times: Tensor) -> Tensor:
        return over_tokens(times[..., None], self.lengths)


def embedded(teacher: FlowAR) -> FlowAR:
    """A student as `flowar distill` makes it: an embedding of t - r is added to that of t."""
    return new_student(teacher, JUMPS)


def decoupled(teacher: FlowAR) -> FlowAR:
    """A student with a `DecoupledFlow` and the weights of its teacher."""
    student = embedded(teacher)
    student.flow_transformer = DecoupledFlow(student.config)
    student.flow_transformer.load_state_dict(teacher.flow_transformer.state_dict())
    return student


class Student(NamedTuple):
    """A kind of student: how a new one is made of its teacher, and what trains it."""

    new: Callable[[FlowAR], FlowAR]
    step: type[DistillationStep]


STUDENTS = {
    "embedding, splitting": Student(embedded, DistillationStep),
    "embedding, MeanFlow": Student(embedded, MeanFlowStep),
    "decoupled, splitting": Student(decoupled, DistillationStep),
    "decoupled, MeanFlow": Student(decoupled, MeanFlowStep),
}
