"""Kinds of flow model: the velocity of a flow or the noise of a diffusion, of a scale's tokens together or each alone.

A diffusion on the cosine schedule and a flow on the straight line pass through the same noisy latents, up to a factor
and another clock: cos(θ) x0 + sin(θ) ε is (1 - t) x0 + t ε over its norm, where tan(θ) = t / (1 - t). So the diffusion
here is a network that sees the former and predicts ε, under times uniform in θ and the plain error of ε; the sampler
integrates the same ODE on the same grid as for a flow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowar import FlowAR, FlowARConfig
from flowar.model import Loss
from flowar.networks.flow_transformer import FlowTransformer, over_tokens

LATEST = 0.98  # where a diffusion starts: at 1 nothing is left of the image, and ε says nothing of x0
LARGEST = (
    4.0  # latent, in standard deviations, that sampling believes in: near `LATEST` errors of ε are 30 times as large
)


def straight_time(angle: Tensor) -> Tensor:
    """t of the straight path from the diffusion's own time, θ / (π / 2), cut off at `LATEST`."""
    theta = angle.clamp(max=LATEST) * (math.pi / 2)
    return theta.sin() / (theta.sin() + theta.cos())


class Epsilon(FlowTransformer):
    """Predicts ε; `forward` gives the velocity of the straight path all the same.

    In eval mode the x0 that follows from ε is clamped, as diffusion samplers do.
    """

    def forward(self, x_t: Tensor, t: Tensor, z: Tensor, scales: Sequence[int]) -> Tensor:
        t = t.clamp(max=float(straight_time(torch.ones(()))))
        by_token = over_tokens(t[..., None], [self.lengths[k] for k in scales]).to(x_t.dtype)  # [B, N or 1, 1]
        angle = torch.atan2(t, 1 - t) / (math.pi / 2)
        epsilon = super().forward(x_t / torch.hypot(by_token, 1 - by_token), angle, z, scales).to(x_t.dtype)
        x_0 = (x_t - by_token * epsilon) / (1 - by_token)
        return epsilon - (x_0 if self.training else x_0.clamp(-LARGEST, LARGEST))


class DiffusionFlowAR(FlowAR):
    """The loss of a diffusion: times uniform on the cosine schedule, mean squared error of ε."""

    def loss(
        self,
        latents: Tensor,
        class_labels: Tensor,
        noise: Tensor | None = None,
        times: Tensor | None = None,
        dropped: Tensor | None = None,
        context_noise: Tensor | None = None,
        scale_exponent: float = 1.0,
    ) -> Loss:
        """As of any FlowAR, but `times` are the diffusion's own, and errors are those of ε."""
        times = torch.rand(len(self.config.grids), len(latents), device=latents.device) if times is None else times
        t = straight_time(times)
        flow = super().loss(latents, class_labels, noise, t, dropped, context_noise)
        per_image = flow.per_image * (1 - t.T).square()  # from errors of the velocity
        return Loss.from_errors(per_image, self.config.scale_lengths, scale_exponent)


class OwnValue(nn.Module):
    """What is left of attention where a token sees itself alone: the projections of its value."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.value = nn.Linear(width, width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rotation: Tensor, lengths: Sequence[int]) -> Tensor:
        return self.proj(self.value(x))


class PerToken(FlowTransformer):
    """Every token flows by itself, given its own semantics: a network without attention, as the MLP of MAR is."""

    def __init__(self, config: FlowARConfig) -> None:
        super().__init__(config)
        for block in self.blocks:
            block.attn = OwnValue(config.flow_width)  # type: ignore[assignment]


class PerTokenEpsilon(Epsilon, PerToken):
    """A diffusion of every token by itself."""
