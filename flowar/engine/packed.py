"""The weights of both transformers as sampling uses them: cast, rewritten and laid out for one precision and device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flowar.config import FlowARConfig
from flowar.engine import rewrites
from flowar.engine.fp8 import to_fp8
from flowar.engine.measured_products import measure_products, measured
from flowar.engine.onednn_linear import PrepackedLinear, prepack
from flowar.networks.ar_transformer import ARTransformer
from flowar.networks.flow_transformer import FlowTransformer
from flowar.networks.latent_pyramid import LatentPyramid
from flowar.networks.layers import GEGLU, is_plain
from flowar.ops import reference
from flowar.system.autotune import autotune_enabled, gpu_tuner, use_tuner
from flowar.system.precision import Precision, matmul_precision

RUN = 61  # words that are summed; fewer than rows of matrices have, and no divisor, so that no row moves unseen

NAIVE_SERVES = "naive=True samples as the modules say"


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
    return Savings(stacked_modulations=False, padded_geglu=False, folded_norms=False, measured_kernels=False)


class PackedNetworks:
    """Both transformers for sampling in one precision; weights that need no change are shared with the originals.

    Args:
        ar, flow, pyramid, config: the parts of a `FlowAR`, which are not changed.
        precision: what the copies compute in.
        savings: those that lie in the weights are applied here, the others are for whoever runs the networks.

    Raises:
        ValueError: for networks with a forward that the engine would pass over.

    Attributes:
        ar, flow: the transformers.
        single_token_flow: the flow transformer for a scale of one token.
        modulation: the modulations per position of all blocks and of the output, where they are one layer.
        lengths, channels, null_class: those of the model.
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
        check_forwards(ar, flow)
        self.pyramid, self.precision, self.savings = pyramid, precision, savings
        self.lengths, self.channels, self.null_class = config.scale_lengths, config.latent_channels, config.null_class
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
                if is_plain(layer, GEGLU):
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
            self.modulation = stacked if self.tuner is None or stacked is None else measured(stacked)


def check_forwards(ar: ARTransformer, flow: FlowTransformer) -> None:
    """Check that nothing computes in a way of its own that packing would lose.

    Blocks and layers of other classes are fine: they are called as they are.

    Raises:
        ValueError: for a subclass with its own `FlowTransformer.forward`, or a module whose `forward` was replaced.
    """
    if type(flow).forward is not FlowTransformer.forward:
        got = f"{type(flow).__name__}.forward"
        raise ValueError(f"engine: expected FlowTransformer.forward, which it takes apart, got {got}; {NAIVE_SERVES}")
    for network in (ar, flow):
        for name, module in network.named_modules():
            if "forward" in vars(module):
                got = f"one of its own at {type(network).__name__} {name}".rstrip()
                raise ValueError(f"engine: expected the forward of a module's class, got {got}; {NAIVE_SERVES}")


def contents(*networks: nn.Module) -> tuple[list[Any], Tensor]:
    """What plans are packed from, to be compared with what it was before.

    The classes, hooks and packed matrices of all modules, where their tensors lie, and `bit_sums` of these: weights may
    change without a trace, as by `parameter.data.mul_(2)`.
    """
    parts: list[Any] = []
    tensors: list[Tensor] = []
    for module in (module for network in networks for module in network.modules()):
        settings = vars(module)
        hooks = (*module._forward_hooks, *module._forward_pre_hooks)
        parts.append((type(module), "forward" in settings, settings.get("number"), hooks))
        tensors += [each for each in (*module._parameters.values(), *module._buffers.values()) if each is not None]
    parts += [(tensor.data_ptr(), tensor.dtype, tensor.shape) for tensor in tensors]
    return parts, bit_sums(tensors)


@torch.inference_mode()
def bit_sums(tensors: Sequence[Tensor]) -> Tensor:
    """Sums over the bits of tensors, int64 on their device, see `reference.bit_sums`."""
    return torch.cat([part for tensor in tensors for part in reference.bit_sums(tensor, RUN)])


def weight_bytes(module: nn.Module) -> dict[int, int]:
    """Sizes of the parameters, and of the matrices of prepacked layers, each under a number of its own."""
    packed = [layer.packed for layer in module.modules() if isinstance(layer, PrepackedLinear)]
    return {each.data_ptr(): each.nbytes for each in module.parameters()} | {id(each): each.nbytes for each in packed}
