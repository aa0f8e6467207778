"""The states that sampling passes through: latents of every scale, states of one scale's ODE. No engine keeps them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from flowar.data.class_names import class_names_of, name_of
from flowar.model import FlowAR
from flowar.sampling.noise import scale_noise
from flowar.sampling.solvers import integrate


class State(NamedTuple):
    """A state of one scale's ODE at time t, and the end where its velocity leads in a straight line, [B, n, c]."""

    t: float
    state: Tensor
    end: Tensor


def sample_scales(model: FlowAR, labels: Tensor, seed: int) -> list[Tensor]:
    """Tokens [B, n_k, c] of every scale, with the model's own preset."""
    tokens: list[Tensor] = []
    model.sample(labels, seed=seed, on_scale=lambda k, latents: tokens.append(latents.clone()))
    return tokens


def ar_inputs(model: FlowAR, tokens: Sequence[Tensor]) -> Tensor:
    """The AR inputs [B, S - 1, c] that sampling made of the `tokens` of its scales."""
    inputs = [model.pyramid.upsample(part, k + 1) for k, part in enumerate(tokens[:-1])]
    return torch.cat((tokens[0][:, :0], *inputs), 1)


@torch.inference_mode()
def ode_states(model: FlowAR, labels: Tensor, seed: int, scale: int, steps: Collection[int]) -> list[State]:
    """The states of `scale` before each of the numbered evaluations of the model's own preset.

    The number of them all is the end of the path, where there is no velocity any more.
    """
    inputs = ar_inputs(model, sample_scales(model, labels, seed))
    lengths, schedule = model.config.scale_lengths, model.schedule()
    both = torch.cat((labels, torch.full_like(labels, model.config.null_class)))
    z = model.ar_transformer(inputs.repeat(2, 1, 1), both).split(lengths, 1)[scale]  # [2B, n, D]
    x = scale_noise(seed, len(labels), lengths, model.config.latent_channels, labels.device)[scale]  # [B, n, c]
    evaluations = schedule.evaluations(scale, len(lengths))
    states: list[State] = []

    def velocity(i: int) -> Tensor:
        t, *r = (x.new_full((len(z),), each) for each in evaluations[i].times)
        return model.velocity(x.repeat(2, 1, 1), t, z, *r)  # [2B, n, c]

    def keep(i: int, end: Tensor) -> None:
        if i in steps:
            states.append(State(evaluations[i].time, x.clone(), end))

    integrate(velocity, x, evaluations, schedule.guidance_weights(scale, len(lengths)), on_evaluation=keep)
    return [*states, State(0.0, x, x)] if len(evaluations) in steps else states


def class_name(model: FlowAR, label: int) -> str:
    """The name that the model has for a class."""
    return name_of(label, class_names_of(model.config))


def check_scale(model: FlowAR, scale: int | None) -> int:
    """The number of a scale; the last one if left out.

    Raises:
        ValueError: for a number that is none.
    """
    last = len(model.config.grids) - 1
    if scale is not None and not 0 <= scale <= last:
        raise ValueError(f"scale: expected an integer from 0 to {last}, got {scale}")
    return last if scale is None else scale


def scale_name(model: FlowAR, scale: int) -> str:
    """The name of a scale: its grid, as in 4x4, height first."""
    height, width = model.config.grids[scale]
    return f"{height}x{width}"
