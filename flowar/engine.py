"""The inference plan: the numbers of `naive.py`, with less work.

1. Where guidance does nothing (outside its interval, or weight 1 as at scale 0) only the conditional half runs.
2. Cross-attention keys and values are computed once per scale.
3. τ, SiLU(τ) and the modulations that depend on τ alone are tables over the time grid.
4. SiLU(c + τ) is computed once for all blocks of a step, and the modulations of several steps in one GEMM, so that
   small scales read the weights once; chunks keep to a memory budget.
5. AR modulations are computed once per image.
6. GEGLU's projections are one GEMM, its hidden width padded with zeros to a multiple of 64.
7. Keys and values of all scales have one preallocated cache; no attention has a mask.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowar import ops
from flowar.ar_transformer import ARTransformer
from flowar.flow_solver import euler
from flowar.flow_transformer import BlockContext, FlowTransformer
from flowar.layers import GEGLU
from flowar.model import FlowAR
from flowar.schedule import Schedule

Packable = TypeVar("Packable", bound=nn.Module)

MODULATION_BUDGET = 64 * 2**20  # bytes of modulations computed ahead of their steps
HIDDEN_MULTIPLE = 64  # hidden widths the GEMM kernels like; 2730 is not even a multiple of 8


class InferencePlan:
    """A model's weights, packed for sampling in one dtype. Weights that need no change are shared with the model."""

    def __init__(self, model: FlowAR, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.config = model.config
        self.pyramid = model.pyramid
        self.ar: ARTransformer = pack(model.ar_transformer, dtype)
        self.flow: FlowTransformer = pack(model.flow_transformer, dtype)

    @torch.inference_mode()
    def sample(
        self,
        class_labels: Tensor,
        schedule: Schedule,
        noise: Sequence[Tensor],
        on_step: Callable[[], None],
        on_scale: Callable[[int, Tensor], None],
    ) -> Tensor:
        """Tokens of the last scale [B, n, c], of the noise's dtype; arguments as `FlowAR.sample` has checked them."""
        labels, scales = class_labels, len(noise)
        if any(weight != 1 for k in range(scales) for weight in schedule.guidance_weights(k, scales)):
            labels = torch.cat((labels, torch.full_like(labels, self.config.null_class)))
        modulations = self.ar.modulations(labels)
        cache = self.ar.new_cache(len(labels), self.dtype)
        times = torch.tensor(schedule.times[:-1], device=labels.device)
        tau = self.flow.time_embed(times[:, None, None])  # [T, 1, 1, W]
        by_time = [block.by_time(F.silu(tau)) for block in self.flow.blocks]  # [T, 1, 1, 3W] or None each
        tokens = noise[0]
        for k, start in enumerate(noise):
            inputs = None
            if k > 0:
                inputs = self.pyramid.upsample(tokens, k).to(self.dtype).repeat(len(labels) // len(start), 1, 1)
            z = self.ar.step(inputs, labels, modulations, cache)  # [B or 2B, n_k, D]
            steering = Steering(self.flow, z, tau, by_time, k)
            tokens = self._integrate(k, start, steering, schedule, on_step)
            on_scale(k, tokens)
        return tokens

    def _integrate(
        self, k: int, noise: Tensor, steering: Steering, schedule: Schedule, on_step: Callable[[], None]
    ) -> Tensor:
        """The ODE of scale k from its noise."""
        batch = len(noise)
        weights = schedule.guidance_weights(k, len(self.config.grids))
        rows = [batch if weight == 1 else 2 * batch for weight in weights]
        steps = steering.steps(rows)
        network_input = noise.to(self.dtype).repeat(max(rows) // batch, 1, 1)

        def velocity(i: int) -> Tensor:
            on_step()
            contexts, output_modulation = next(steps)
            x = network_input[: rows[i]]
            return self.flow.run(x, contexts, output_modulation, steering.rotation, steering.lengths)

        return euler(velocity, noise.clone(), schedule.times, weights, network_input)


class Steering:
    """What steers the flow transformer at every step of one scale: contexts of the blocks, modulation of the output."""

    def __init__(self, flow: FlowTransformer, z: Tensor, tau: Tensor, by_time: Sequence[Tensor | None], k: int) -> None:
        """z [B or 2B, n, D] of scale k; tau [T, 1, 1, W] and each block's `by_time` are tables over the time grid."""
        self.flow, self.tau, self.by_time = flow, tau, by_time
        self.rotation, self.lengths = flow.rotation([k]), [flow.lengths[k]]
        self.conditions = flow.condition_embed(z)  # [B or 2B, n, W]
        self.keys_values = [block.keys_values(z, self.rotation) for block in flow.blocks]
        width = sum(block.position_modulation.out_features for block in flow.blocks)
        step_bytes = self.conditions[..., 0].numel() * width * self.conditions.element_size()
        self.steps_ahead = max(1, MODULATION_BUDGET // step_bytes)

    def steps(self, rows_per_step: Sequence[int]) -> Iterator[tuple[list[BlockContext], Tensor]]:
        """Step by step, for the first `rows_per_step[i]` rows of the conditions."""
        for start, stop in self._chunks(rows_per_step):
            rows = rows_per_step[start]
            steer = torch.stack([ops.silu_add(self.conditions[:rows], tau) for tau in self.tau[start:stop]])
            by_position = [block.position_modulation(steer) for block in self.flow.blocks]
            output_modulation = self.flow.output_modulation(steer)
            for i in range(start, stop):
                contexts = [
                    BlockContext(
                        position[i - start],
                        None if time is None else time[i],
                        None if pair is None else (pair[0][:rows], pair[1][:rows]),
                    )
                    for position, time, pair in zip(by_position, self.by_time, self.keys_values, strict=True)
                ]
                yield contexts, output_modulation[i - start]

    def _chunks(self, rows: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Runs of consecutive steps with equally many rows, none longer than the budget allows."""
        start = 0
        for i in range(1, len(rows) + 1):
            if i == len(rows) or rows[i] != rows[start] or i - start == self.steps_ahead:
                yield start, i
                start = i


def pack(module: Packable, dtype: torch.dtype) -> Packable:
    """A copy of `module` for inference in `dtype`: parameters cast (shared where the dtype is theirs), GEGLU padded."""
    shared = {id(parameter): frozen(parameter.detach().to(dtype)) for parameter in module.parameters()}
    packed = copy.deepcopy(module, shared).eval()
    for layer in packed.modules():
        if isinstance(layer, GEGLU):
            pad_hidden(layer)
    return packed


def pad_hidden(layer: GEGLU) -> None:
    """Pad the hidden width with zeros, in place: gelu(0) * 0 = 0, so the output does not change."""
    hidden = layer.fc2.in_features
    padding = -hidden % HIDDEN_MULTIPLE
    if padding == 0:
        return
    halves = layer.fc1.weight.view(2, hidden, -1)
    layer.fc1.weight = frozen(F.pad(halves, (0, 0, 0, padding)).flatten(0, 1))
    layer.fc1.bias = frozen(F.pad(layer.fc1.bias.view(2, hidden), (0, padding)).flatten())
    layer.fc2.weight = frozen(F.pad(layer.fc2.weight, (0, padding)))
    layer.fc1.out_features, layer.fc2.in_features = 2 * (hidden + padding), hidden + padding


def frozen(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight, requires_grad=False)
