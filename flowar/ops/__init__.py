"""The ops of FlowAR. Each is defined by the function of the same name in `flowar.ops.reference`."""

from flowar.ops import reference
from flowar.ops.backend import cpu_isa, implementation, reference_active, use_reference
from flowar.ops.geglu import geglu
from flowar.ops.reference import counter_normal, latent_pyramid, latent_resample, velocity_step
from flowar.ops.rotary_qkv import rotary_qkv, rotary_qkv_cache
from flowar.ops.silu_add import silu_add
from flowar.ops.spatial_adaln import spatial_adaln
from flowar.ops.spatial_adaln_residual import spatial_adaln_residual

__all__ = [
    "counter_normal",
    "cpu_isa",
    "geglu",
    "implementation",
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
