"""Floating-point operations of sampling and training, from the configuration alone: matrix products and attention.

A multiply-add counts as two. Norms, activations and resampling are left out: they are bound by bandwidth. So is what an
implementation adds (GEGLU padded to a round width): these are operations that the algorithm needs.
"""

from __future__ import annotations

from dataclasses import replace

from flowar.config import FlowARConfig
from flowar.sampling.schedule import Schedule

BACKWARD = 2  # times the operations of forward: gradients of both factors of every product


def published_flops(config: FlowARConfig, schedule: Schedule, batch: int) -> int:
    """Operations of the published algorithm for `batch` images: all for both halves, at every step of every scale."""
    rows, total = 2 * batch, 0
    for k, n in enumerate(config.scale_lengths):
        total += rows * (ar_modulation(config) + ar_scale(config, k))
        per_step = time_tables(config) + flow_conditions(config, n) + flow_step(config, n)
        total += rows * len(schedule.guidance_weights(k, len(config.grids))) * per_step
    return total


def engine_flops(config: FlowARConfig, schedule: Schedule, batch: int) -> int:
    """Operations of the engine for `batch` images, with all exact savings."""
    lengths = config.scale_lengths
    if schedule.guidance_scale == 0:  # the unconditional half alone
        schedule = replace(schedule, guidance_scale=1.0)
    weights = [schedule.guidance_weights(k, len(lengths)) for k in range(len(lengths))]
    rows = batch * (2 if any(weight != 1 for scale in weights for weight in scale) else 1)
    times = {tuple(each.interval for each in schedule.evaluations(k, len(lengths))) for k in range(len(lengths))}
    total = rows * ar_modulation(config) + sum(map(len, times)) * time_tables(config)
    for k, n in enumerate(lengths):
        evaluations = batch * sum(1 if weight == 1 else 2 for weight in weights[k])
        total += rows * (ar_scale(config, k) + flow_conditions(config, n)) + evaluations * flow_step(config, n)
    return total


def training_flops(config: FlowARConfig, batch: int) -> int:
    """Operations of one training step of `batch` images, forward and backward.

    Every scale counts once, each image at one time a scale.

    What activation checkpointing computes again does not count, nor do clipping, optimizer and averages.
    """
    forward = ar_modulation(config) + len(config.grids) * time_tables(config)
    for k, n in enumerate(config.scale_lengths):
        forward += ar_scale(config, k) + flow_conditions(config, n) + flow_step(config, n)
    return (1 + BACKWARD) * batch * forward


def ar_modulation(config: FlowARConfig) -> int:
    """Operations of the six vectors for every AR block, for one image at one scale."""
    return config.ar_depth * linear(config.ar_width, 6 * config.ar_width)


def ar_scale(config: FlowARConfig, k: int) -> int:
    """Operations of the AR transformer on the tokens of scale k, which attend to all scales up to theirs."""
    n, prefix, width = config.scale_lengths[k], sum(config.scale_lengths[: k + 1]), config.ar_width
    block = self_attention(width, n, prefix) + n * geglu(width)
    input_proj = 0 if k == 0 else n * linear(config.latent_channels, width)
    return input_proj + config.ar_depth * block + n * linear(width, width)


def time_tables(config: FlowARConfig) -> int:
    """Operations that depend on the time alone: τ, and the modulations that only the time steers."""
    width = config.flow_width
    by_time = config.flow_depth * linear(width, 3 * width) if config.flow_block == "attn_cross_mlp" else 0
    embeddings = 2 if config.jumps else 1
    return embeddings * (linear(256, width) + linear(width, width)) + by_time


def flow_conditions(config: FlowARConfig, n: int) -> int:
    """Operations that depend on the conditions alone: their embedding, keys and values of cross-attention."""
    keys_values = linear(config.ar_width, 2 * config.flow_width) if config.flow_block == "attn_cross_mlp" else 0
    return n * (linear(config.ar_width, config.flow_width) + config.flow_depth * keys_values)


def flow_step(config: FlowARConfig, n: int) -> int:
    """All other operations of one velocity of n tokens."""
    width, channels = config.flow_width, config.latent_channels
    if config.flow_block == "attn_mlp":
        block = n * linear(width, 6 * width) + self_attention(width, n, n) + n * geglu(width)
    else:
        cross = 2 * n * linear(width, width) + attention(width, n, n)
        block = n * linear(width, 3 * width) + self_attention(width, n, n) + cross + n * geglu(width)
    ends = linear(channels, width) + linear(width, 2 * width) + linear(width, channels)
    return config.flow_depth * block + n * ends


def self_attention(width: int, n: int, prefix: int) -> int:
    """Operations of packed projection, attention of n queries to `prefix` keys, and output projection."""
    return n * linear(width, 3 * width) + attention(width, n, prefix) + n * linear(width, width)


def attention(width: int, queries: int, keys: int) -> int:
    """Operations of scores and weighted sum, all heads together."""
    return 4 * queries * keys * width


def geglu(width: int) -> int:
    """Operations of GEGLU for one token."""
    hidden = int(width * 8 / 3)
    return linear(width, 2 * hidden) + linear(hidden, width)


def linear(inputs: int, outputs: int) -> int:
    """Operations of a linear layer for one token."""
    return 2 * inputs * outputs
