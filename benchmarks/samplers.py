"""The ways to sample that are compared: each takes a batch size and gives latents."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from flowar import FlowAR, Schedule
from flowar.engine.packed import Savings, default_savings
from flowar.engine.plan import InferencePlan
from flowar.sampling.callbacks import Callbacks
from flowar.sampling.noise import image_seeds

NAIVE, ENGINE, COMPILED = "naive", "engine", "naive + torch.compile"
NO_GRAPHS = "engine without graphs"

Sampler = Callable[[int], Tensor]


def labels_of(model: FlowAR, batch: int) -> Tensor:
    """Class i for image i: a smaller batch is the beginning of a larger one."""
    return torch.arange(batch) % model.config.num_classes


def naive(model: FlowAR, schedule: Schedule, dtype: torch.dtype) -> Sampler:
    """The published algorithm in plain PyTorch."""

    def sample(batch: int) -> Tensor:
        return model.sample(labels_of(model, batch), schedule=schedule, naive=True, dtype=dtype, progress=False)

    return sample


def engine(model: FlowAR, schedule: Schedule, dtype: torch.dtype) -> Sampler:
    """What a user of the pipeline gets, with a plan of its own."""
    fresh = twin(model)

    def sample(batch: int) -> Tensor:
        return fresh.sample(labels_of(model, batch), schedule=schedule, dtype=dtype, progress=False)

    return sample


def inference_plan(model: FlowAR, dtype: torch.dtype, savings: Savings) -> InferencePlan:
    """A plan of the model's networks with some of the engine's savings."""
    return InferencePlan(model.ar_transformer, model.flow_transformer, model.pyramid, model.config, dtype, savings)


def plan_sampler(model: FlowAR, schedule: Schedule, plan: InferencePlan) -> Sampler:
    """One plan, whatever its savings."""

    def sample(batch: int) -> Tensor:
        device = plan.networks.device
        labels = labels_of(model, batch).to(device)
        tokens = plan.sample(labels, schedule, image_seeds(0, batch).to(device), Callbacks())
        return model.pyramid.to_grid(tokens, len(model.config.grids) - 1)

    return sample


def without_each_saving(model: FlowAR, schedule: Schedule, dtype: torch.dtype) -> dict[str, Callable[[], Sampler]]:
    """The engine with one saving switched off, for every one of them; made when called."""

    every = default_savings(model.ar_transformer.input_positions.device)

    def make(name: str) -> Callable[[], Sampler]:
        savings = dataclasses.replace(every, **{name: False})
        return lambda: plan_sampler(model, schedule, inference_plan(twin(model), dtype, savings))

    names = [saving.name for saving in dataclasses.fields(Savings) if getattr(every, saving.name)]
    return {f"engine without {name.replace('_', ' ')}": make(name) for name in names}


def compiled(model: FlowAR, schedule: Schedule, dtype: torch.dtype, backend: str = "inductor") -> Sampler:
    """The published algorithm with the flow transformer's blocks, which take most of the time, under torch.compile.

    Block by block: they share their code, so there is one compilation a scale and not one for every block of it.
    """
    torch._dynamo.config.recompile_limit = 64  # beyond it, and by default that is soon, calls go on uncompiled
    fresh = twin(model)
    for block in fresh.flow_transformer.blocks:
        block.compile(dynamic=False, backend=backend)
    return naive(fresh, schedule, dtype)


def twin(model: FlowAR) -> FlowAR:
    """A model with the same parameters and no inference plans yet."""
    return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
