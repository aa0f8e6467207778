"""ODE solvers over a given time grid. They know nothing of networks: any `velocity` will do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from flowar import ops


def euler(
    velocity: Callable[[int], Tensor],
    state: Tensor,
    times: Sequence[float],
    guidance_weights: Sequence[float] | None = None,
    network_input: Tensor | None = None,
) -> Tensor:
    """Integrate dx/dt = v from `times[0]` to `times[-1]`, in place.

    Args:
        velocity: gives v at step i, [B, n, c], or [2B, n, c] with the unconditional half second.
        state: x [B, n, c], float32 or float64; updated in place and returned.
        times: the grid; step i goes from `times[i]` to `times[i + 1]`.
        guidance_weights: one per step, for steps whose velocity has two halves.
        network_input: [B or 2B, n, c] of any floating dtype; receives the new state after every step.
    """
    weights = guidance_weights or [1.0] * (len(times) - 1)
    for i, weight in enumerate(weights):
        ops.velocity_step(state, velocity(i), times[i + 1] - times[i], weight, network_input)
    return state
