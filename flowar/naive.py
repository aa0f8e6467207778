"""The published sampling algorithm, without any saving: the reference of the tests and the baseline of benchmarks.

Both halves of guidance are computed at every step of every scale, and whatever depends on the class, the time or the
conditions alone is computed again each time it is needed, in plain PyTorch. Low precision is autocast, as the authors
run it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from flowar import ops
from flowar.model import FlowAR
from flowar.networks.attention_backends import use_attention_backend
from flowar.sampling.callbacks import Callbacks
from flowar.sampling.pins import Pins, pin
from flowar.sampling.schedule import Schedule
from flowar.sampling.solvers import integrate
from flowar.system.precision import Precision, matmul_precision


@torch.inference_mode()
def sample_naive(
    model: FlowAR,
    class_labels: Tensor,
    schedule: Schedule,
    noise: Sequence[Tensor],
    precision: Precision,
    callbacks: Callbacks,
    pins: Pins | None = None,
) -> Tensor:
    """Tokens of the last scale [B, n, c], of the noise's dtype; arguments as `FlowAR.sample` has checked them.

    Raises:
        ValueError: for fp8, which the published algorithm does not know.
    """
    if precision.matmul == "fp8":
        raise ValueError("dtype: fp8 expects naive=False, got naive=True")
    ar, flow, config = model.ar_transformer, model.flow_transformer, model.config
    labels = torch.cat((class_labels, torch.full_like(class_labels, config.null_class)))
    dtype = precision.dtype
    low_precision = dtype in (torch.bfloat16, torch.float16)
    autocast = torch.autocast(class_labels.device.type, dtype, enabled=low_precision)
    with ops.use_reference(), use_attention_backend("sdpa"), matmul_precision(precision), autocast:
        cache = ar.new_cache(len(labels), dtype)
        tokens: Tensor | None = None
        for k, state in enumerate(noise):
            inputs = None if tokens is None else model.pyramid.upsample(tokens, k).repeat(2, 1, 1)
            z = ar.step(inputs, labels, ar.modulations(labels), cache)
            state, evaluations = state.clone(), schedule.evaluations(k, len(noise))
            times = [each.time for each in evaluations]

            def velocity(i: int, x: Tensor = state, z: Tensor = z, k: int = k, times: list[float] = times) -> Tensor:
                callbacks.on_step()
                return flow(x.repeat(2, 1, 1), x.new_full((len(z), 1), times[i]), z, [k])

            weights = schedule.guidance_weights(k, len(noise))
            constrain = None if pins is None else partial(pin, state, noise[k], pins.tokens[k], pins.masks[k])
            watch = callbacks.on_evaluation and partial(callbacks.on_evaluation, k)
            tokens = integrate(velocity, state, evaluations, weights, constrain=constrain, on_evaluation=watch)
            if callbacks.on_scale is not None:
                callbacks.on_scale(k, tokens)
    assert tokens is not None
    return tokens
