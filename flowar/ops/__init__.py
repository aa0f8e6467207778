"""The ops of FlowAR. Each is defined by the function of the same name in `flowar.ops.reference`."""

from flowar.ops import reference
from flowar.ops.backend import reference_active, use_reference
from flowar.ops.reference import (
    counter_normal,
    geglu,
    latent_pyramid,
    latent_resample,
    rotary_qkv,
    rotary_qkv_cache,
    silu_add,
    spatial_adaln,
    spatial_adaln_residual,
    velocity_step,
)

__all__ = [
    "counter_normal",
    "geglu",
    "latent_pyramid",
    "latent_resample",
    "reference",
    "reference_active",
    "rotary_qkv",
    "rotary_qkv_cache",
    "silu_add",
    "spatial_adaln",
    "spatial_adaln_residual",
    "use_reference",
    "velocity_step",
]
