"""What a model of jumps learns: mean velocities of its guided teacher, and of two of its own jumps in a row.

The mean velocity u(x_t, t, r) over an interval leads from the state at t to that at r: x_r = x_t - (t - r) u. Over the
shortest intervals it is the teacher's, by one step of the midpoint method. Over any other it follows from its halves
(interval splitting: shortcut models, arXiv 2410.12557, and SplitMeanFlow, arXiv 2507.16884), with s between r and t:

    (t - r) u(x_t, t, r) = (t - s) u(x_t, t, s) + (s - r) u(x_s, s, r)

At r = t it is the teacher's guided velocity itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from flowar.model import FlowAR
from flowar.networks.flow_transformer import over_tokens
from flowar.pipeline import FlowARPipeline
from flowar.sampling.schedule import Schedule
from flowar.training.draws import Draws, Stream

STILL = 0.25  # the share of the teacher's intervals that are a point

MeanVelocity = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # of x_t [B, S, c], z [B, S, D], t and r [B, K]


class Jumps(NamedTuple):
    """The intervals of B images at K scales.

    Attributes:
        t, r: from where and to where, float32 [B, K]; on the axis of their square roots each is a half of a half of ...
            of [0, 1].
        taught: bool [B], the images that the teacher teaches; all their intervals are shortest, or points.
    """

    t: Tensor
    r: Tensor
    taught: Tensor


def draw_jumps(draws: Draws, scales: int, finest: int, taught_share: float) -> Jumps:
    """Draw intervals for models whose finest schedule has `finest` jumps; all lengths are equally likely."""
    taught = draws.uniform(Stream.TAUGHT) < taught_share  # [B]
    levels = finest.bit_length() - 1
    length = draws.uniform(Stream.JUMP_LENGTH, (scales,))  # [B, K]
    jumps = torch.where(taught[:, None], finest, torch.exp2((length * levels).floor())).float()  # so many in all
    place = (draws.uniform(Stream.JUMP_PLACE, (scales,)) * jumps).floor()
    t, r = ((place + 1) / jumps).square(), (place / jumps).square()
    return Jumps(t, torch.where(taught[:, None] & (length < STILL), t, r), taught)


@dataclass
class Teacher:
    """A trained model, and the guidance that its students are to have inside.

    Attributes:
        pipeline: the model, in evaluation mode, with its tokenizer.
        schedule: its guidance, and what it draws with.
    """

    pipeline: FlowARPipeline
    schedule: Schedule

    @property
    def model(self) -> FlowAR:
        return self.pipeline.model

    def guided_velocity(self, x_t: Tensor, z: Tensor, null_z: Tensor, t: Tensor) -> Tensor:
        """The guided velocity [B, S, c] at x_t [B, S, c], times t [B, K], conditions [B, S, D] of both halves."""
        both = self._flow(torch.cat((x_t, x_t)), torch.cat((z, null_z)), torch.cat((t, t)))
        conditional, unconditional = both.float().chunk(2)
        weight = over_tokens(self._weights(t)[..., None], self.model.config.scale_lengths)  # [B, S, 1]
        return torch.lerp(unconditional, conditional, weight)

    def mean_velocity(self, x_t: Tensor, z: Tensor, null_z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """The mean guided velocity from t to r [B, K], by one step of the midpoint method."""
        half = (t - r) / 2
        middle = x_t - self._by_token(half) * self.guided_velocity(x_t, z, null_z, t)
        return self.guided_velocity(middle, z, null_z, t - half)

    def _flow(self, x_t: Tensor, z: Tensor, t: Tensor) -> Tensor:
        return self.model.flow_transformer(x_t, t, z, range(len(self.model.config.grids)))

    def _weights(self, t: Tensor) -> Tensor:
        """The weights of guidance [B, K] at times t."""
        scales, (low, high) = t.shape[1], self.schedule.active_interval
        weights = torch.tensor([self.schedule.guidance(k, scales) for k in range(scales)], device=t.device)
        return torch.where((low <= t) & (t <= high), weights, 1.0)

    def _by_token(self, times: Tensor) -> Tensor:
        return over_tokens(times[..., None], self.model.config.scale_lengths)


def split_mean(mean_velocity: MeanVelocity, x_t: Tensor, z: Tensor, jumps: Jumps, lengths: tuple[int, ...]) -> Tensor:
    """The mean velocity [B, S, c] over intervals from those of their halves, which are halves on the axis of jumps."""
    t, r = jumps.t, jumps.r
    s = ((t.sqrt() + r.sqrt()) / 2).square()
    first_share = over_tokens(((t - s) / (t - r))[..., None], lengths)  # [B, S, 1]
    first = mean_velocity(x_t, z, t, s).float()
    x_s = x_t - over_tokens((t - s)[..., None], lengths) * first
    return torch.lerp(mean_velocity(x_s, z, s, r).float(), first, first_share)
