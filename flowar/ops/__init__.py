"""The ops of FlowAR. Each is defined by the function of the same name in `flowar.ops.reference`."""

from flowar.ops import reference
from flowar.ops.backend import (
    cpu_isa,
    cuda_kernels,
    implementation,
    missing_kernels,
    reference_active,
    use_reference,
)
from flowar.ops.checked_copy import checked_copy
from flowar.ops.counter_normal import counter_normal
from flowar.ops.geglu import geglu
from flowar.ops.latent_pyramid import latent_pyramid
from flowar.ops.latent_resample import latent_resample
from flowar.ops.quantize_rows import quantize_rows
from flowar.ops.rotary_qkv import rotary_qkv, rotary_qkv_cache
from flowar.ops.silu_add import silu_add
from flowar.ops.spatial_adaln import spatial_adaln
from flowar.ops.spatial_adaln_residual import spatial_adaln_residual
from flowar.ops.velocity_step import velocity_step

__all__ = [
    "checked_copy",
    "counter_normal",
    "cpu_isa",
    "cuda_kernels",
    "geglu",
    "implementation",
    "latent_pyramid",
    "latent_resample",
    "missing_kernels",
    "quantize_rows",
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
