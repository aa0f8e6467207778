"""The weights of both transformers as sampling uses them: cast, rewritten and laid out for one precision and device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from flowar.config import FlowARConfig
from flowar.engine import rewrites
from flowar.engine.fp8 import to_fp8
from flowar.engine.measured_products import measure_products, measured
from flowar.engine.onednn_linear import PrepackedLinear, prepack
from flowar.networks.ar_transformer import ARTransformer
from flowar.networks.flow_transformer import FlowTransformer
from flowar.networks.latent_pyramid import LatentPyramid
from flowar.networks.layers import GEGLU
from flowar.system.autotune import autotune_enabled, gpu_tuner, use_tuner
from flowar.system.precision import Precision, matmul_precision


@dataclass(frozen=True)
class Savings:
    """What the engine does not compute twice. Switched off one by one to measure each."""

    conditional_half: bool = True
    cross_attention_once: bool = True
    time_tables: bool = True
    modulations_ahead: bool = True
    stacked_modulations: bool = True
    class_modulations_once: bool = True
    padded_geglu: bool = True
    folded_norms: bool = True
    single_token: bool = True
    graphs: bool = True
    measured_kernels: bool = True


def default_savings(device: torch.device) -> Savings:
    """All of them on a GPU. A CPU gains nothing by those that need a second copy of weights, and measures nothing."""
    if device.type == "cuda":
        return Savings()
    return Savings(stacked_modulations=False, padded_geglu=False, measured_kernels=False)


class PackedNetworks:
    """Both transformers for sampling in one precision; weights that need no change are shared with the originals.

    Args:
        ar, flow, pyramid, config: the parts of a `FlowAR`, which are not changed.
        precision: what the copies compute in.
        savings: those that lie in the weights are applied here, the others are for whoever runs the networks.

    Attributes:
        ar, flow: the transformers.
        single_token_flow: the flow transformer for a scale of one token.
        modulation: the modulations per position of all blocks and of the output, where they are one layer.
        state_dtype: what the latents are kept in between evaluations.
        tuner: what measures kernels, on a GPU.
    """

    def __init__(
        self,
        ar: ARTransformer,
        flow: FlowTransformer,
        pyramid: LatentPyramid,
        config: FlowARConfig,
        precision: Precision,
        savings: Savings,
    ) -> None:
        self.pyramid, self.config, self.precision, self.savings = pyramid, config, precision, savings
        self.dtype, self.state_dtype = precision.dtype, torch.promote_types(precision.dtype, torch.float32)
        self.device = ar.input_positions.device
        self.tuner = gpu_tuner(self.device) if savings.measured_kernels else None
        self.ar, self.flow = rewrites.pack(ar, self.dtype), rewrites.pack(flow, self.dtype)
        self.single_token_flow = self.flow
        self.modulation: nn.Linear | None = None
        with self.in_effect():
            self._rewrite(flow)
        self._shared = weight_bytes(ar).keys() | weight_bytes(flow).keys()

    def flow_for(self, tokens: int) -> FlowTransformer:
        """The flow transformer for a scale of so many tokens."""
        return self.single_token_flow if tokens == 1 else self.flow

    @contextmanager
    def in_effect(self) -> Iterator[None]:
        """These networks' precision and no other, since a caller's autocast is not for them; and their tuner."""
        tuner = self.tuner if autotune_enabled() else None
        with matmul_precision(self.precision), torch.autocast(self.device.type, enabled=False), use_tuner(tuner):
            yield

    def own_bytes(self) -> int:
        """The bytes of weights that are not shared with the originals."""
        parts = (self.ar, self.flow, self.single_token_flow)
        weights = {key: size for part in parts for key, size in weight_bytes(part).items()}
        return sum(size for key, size in weights.items() if key not in self._shared)

    def _rewrite(self, exact: FlowTransformer) -> None:
        """Apply the savings that lie in the weights."""
        if self.savings.padded_geglu:
            for layer in (*self.ar.modules(), *self.flow.modules()):
                if isinstance(layer, GEGLU):
                    rewrites.pad_hidden(layer)
        if self.savings.folded_norms:
            rewrites.fold_norms(self.flow, exact)
        if self.precision.matmul == "fp8":  # whose layers stay apart, each with scales of its own
            to_fp8(self.ar)
            to_fp8(self.flow)
        else:
            self._rewrite_products()
        if self.device.type == "cpu":
            prepack(self.ar)
            prepack(self.flow)
        if self.savings.single_token:
            self.single_token_flow = rewrites.single_token(self.flow, exact)

    def _rewrite_products(self) -> None:
        """Make one layer of all modulations, and on a GPU let products go the way that is fastest there."""
        if self.tuner is not None:
            measure_products(self.ar)
            measure_products(self.flow)
        if self.savings.stacked_modulations:
            stacked = rewrites.stack_modulations(self.flow)
            self.modulation = stacked if self.tuner is None else measured(stacked)


def weight_bytes(module: nn.Module) -> dict[int, int]:
    """Sizes of the parameters, and of the matrices of prepacked layers, each under a number of its own."""
    packed = [layer.packed for layer in module.modules() if isinstance(layer, PrepackedLinear)]
    return {each.data_ptr(): each.nbytes for each in module.parameters()} | {id(each): each.nbytes for each in packed}
