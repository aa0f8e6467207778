from __future__ import annotations

from torch import Tensor

from flowar.ops import backend, reference

_forward = backend.op("velocity_step")


@backend.defined_by(reference.velocity_step)
def velocity_step(
    state: Tensor, velocity: Tensor, dt: float, guidance_weight: float, next_input: Tensor | None = None
) -> None:
    """Euler step in place: `state += dt * v`. Equivalent to `reference.velocity_step`.

    Args:
        state: [B, n, C] float32 or float64, last stride 1; changed in place.
        velocity: [B, n, C], or [2B, n, C]: conditional half, then unconditional half, combined as
            `v = v_u + guidance_weight * (v_c - v_u)`. Any floating dtype.
        dt: the step.
        guidance_weight: used with a velocity of 2B.
        next_input: [B, n, C] or [2B, n, C] of any floating dtype, last stride 1; receives the new state, once or twice.

    Raises:
        ValueError: shapes that do not fit together, or a dtype that is not allowed.
    """
    _forward(state, velocity, dt, guidance_weight, next_input)


def _fake(state: Tensor, velocity: Tensor, dt: float, guidance_weight: float, next_input: Tensor | None) -> None:
    return None


backend.register_fake("velocity_step", _fake)
