"""The inference plan: the numbers of the published algorithm, with less work.

Its savings, each exact, and each a field of `Savings`:

- where guidance does nothing (outside its interval, or weight 1 as at scale 0) only the conditional half runs;
- cross-attention keys and values are computed once per scale;
- τ, SiLU(τ) and the modulations that depend on τ alone are tables over the time grid;
- at small scales the modulations of many steps are one GEMM, within a memory budget;
- those of all blocks are one GEMM;
- AR modulations are computed once per image;
- GEGLU's hidden width is padded with zeros to a multiple of 64;
- the norms of cross-attention join the residual addition before them, their weights the GEMM behind them;
- at the scale of one token attention is a linear map, and cross-attention the same at every step;
- on a GPU, every scale is one CUDA graph;
- there too, attention and wide products are computed by what was measured to be fastest for their shape.

Keys and values of all scales have one preallocated cache, and no attention has a mask.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flowar import ops
from flowar.config import FlowARConfig
from flowar.engine import cuda_graph, rewrites
from flowar.engine.fp8 import to_fp8
from flowar.engine.measured_products import measure_products, measured
from flowar.engine.onednn_linear import PrepackedLinear, prepack
from flowar.engine.program import SamplingProgram
from flowar.networks.ar_transformer import ARTransformer
from flowar.networks.attention_backends import attention_backend
from flowar.networks.flow_transformer import FlowTransformer
from flowar.networks.latent_pyramid import LatentPyramid
from flowar.networks.layers import GEGLU
from flowar.sampling.callbacks import Callbacks
from flowar.sampling.pins import Pins
from flowar.sampling.schedule import Schedule
from flowar.system.autotune import Choice, autotune_enabled, gpu_tuner, use_tuner
from flowar.system.precision import Precision, matmul_precision, resolve_precision

# Programs of a plan that wait for the next call, in number and as a share of the GPU's memory.
MAX_PROGRAMS = 8
MAX_MEMORY_SHARE = 0.3


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


class InferencePlan:
    """The weights of both transformers, packed for sampling in one precision, and shared where they need no change.

    Args:
        ar, flow, pyramid, config: the parts of a `FlowAR`, which are not changed.
        precision: a `Precision`, or anything that `FlowAR.sample` takes for its `dtype`.
        savings: `default_savings` if left out.
    """

    def __init__(
        self,
        ar: ARTransformer,
        flow: FlowTransformer,
        pyramid: LatentPyramid,
        config: FlowARConfig,
        precision: Precision | torch.dtype | str | None,
        savings: Savings | None = None,
    ) -> None:
        parameter = ar.input_positions
        if not isinstance(precision, Precision):
            precision = resolve_precision(precision, parameter.device, parameter.dtype)
        self.precision, self.dtype, self.device = precision, precision.dtype, parameter.device
        self.config, self.pyramid = config, pyramid
        self.savings = default_savings(self.device) if savings is None else savings
        self.state_dtype = torch.promote_types(self.dtype, torch.float32)
        self.ar: ARTransformer = rewrites.pack(ar, self.dtype)
        self.flow: FlowTransformer = rewrites.pack(flow, self.dtype)
        self.modulation: nn.Linear | None = None  # those of all blocks, where they are one layer
        self.single_token_flow = self.flow
        self._tuner = gpu_tuner(self.device) if self.savings.measured_kernels else None
        with self._in_effect():
            self._rewrite(flow)
        self._shared = weight_bytes(ar).keys() | weight_bytes(flow).keys()
        self._idle: list[tuple[ProgramKey, SamplingProgram]] = []  # captured ones, the last used last
        self._failed: set[ProgramKey] = set()  # what could not be captured
        self._lock = threading.Lock()

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
        if self.device.type == "cpu" and self.dtype != exact.input_proj.bias.dtype:  # copies of the plan's own
            prepack(self.ar)
            prepack(self.flow)
        if self.savings.single_token:
            self.single_token_flow = rewrites.single_token(self.flow, exact)

    def _rewrite_products(self) -> None:
        """Those of layers that are not fp8: one layer for all modulations, and on a GPU whatever is fastest there."""
        if self._tuner is not None:
            measure_products(self.ar)
            measure_products(self.flow)
        if self.savings.stacked_modulations:
            stacked = rewrites.stack_modulations(self.flow)
            self.modulation = stacked if self._tuner is None else measured(stacked)

    def flow_of(self, tokens: int) -> FlowTransformer:
        """The flow transformer for a scale of so many tokens."""
        return self.single_token_flow if tokens == 1 else self.flow

    @torch.inference_mode()
    def sample(
        self,
        class_labels: Tensor,
        schedule: Schedule,
        noise: Sequence[Tensor] | Tensor,
        callbacks: Callbacks,
        pins: Pins | None = None,
    ) -> Tensor:
        """Tokens of the last scale [B, n, c], float32 or wider.

        Args:
            class_labels: int64 [B], checked.
            schedule: times and guidance.
            noise: [B, n_k, c] for every scale, or int64 [B], the seeds of the images (`noise.image_seeds`).
            callbacks: what to call on the way.
            pins: latents to arrive at, checked.
        """
        key = self._key(len(class_labels), schedule, noise, callbacks, pins)
        with self._in_effect():
            program = self._take(key) or self._build(key)
            try:
                return program.run(class_labels, noise, callbacks, pins)
            finally:
                self._give_back(key, program)

    def close(self) -> None:
        """Let go of the memory of all programs that are not at work; what could not be captured is tried again."""
        self._make_room()
        with self._lock:
            self._failed.clear()

    def _make_room(self) -> bool:
        """Let go of the programs that are not at work; whether there were any."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, program in idle:
            program.close()
        return bool(idle)

    def report(self) -> PlanReport:
        """What this plan holds in memory, and which kernels it uses."""
        parts = (self.ar, self.flow, self.single_token_flow)
        weights = {key: size for part in parts for key, size in weight_bytes(part).items()}
        own = sum(size for key, size in weights.items() if key not in self._shared)
        scales = len(self.config.grids)
        with self._lock:
            idle = [*self._idle]
        programs = [ProgramReport(key.batch, key.schedule.num_evaluations(scales), each.bytes) for key, each in idle]
        choices = {} if self._tuner is None else dict(self._tuner.choices)
        return PlanReport(self.precision.name, own, programs, choices)

    def _key(
        self,
        batch: int,
        schedule: Schedule,
        noise: Sequence[Tensor] | Tensor,
        callbacks: Callbacks,
        pins: Pins | None,
    ) -> ProgramKey:
        noise_dtype = None if isinstance(noise, Tensor) else noise[0].dtype
        held = None if pins is None else pins.held
        kernels = attention_backend(), autotune_enabled(), ops.reference_active()
        eager = ProgramKey(batch, schedule, noise_dtype, *kernels, held, False)
        captured = eager._replace(batch=bucket(batch), graphs=True)
        if not self._uses_graphs() or callbacks.on_evaluation is not None or captured in self._failed:
            return eager
        return captured

    @contextmanager
    def _in_effect(self) -> Iterator[None]:
        """The plan's precision and no other: a caller's autocast is not for it. And its tuner."""
        tuner = self._tuner if autotune_enabled() else None
        with matmul_precision(self.precision), torch.autocast(self.device.type, enabled=False), use_tuner(tuner):
            yield

    def _uses_graphs(self) -> bool:
        return self.savings.graphs and cuda_graph.available(self.device)

    def _build(self, key: ProgramKey) -> SamplingProgram:
        program = SamplingProgram(self, key.schedule, key.batch, key.noise_dtype, key.held)
        if key.graphs and not cuda_graph.try_capture(program.capture, self._make_room, "sampling"):
            with self._lock:
                self._failed.add(key)
        return program

    def _take(self, key: ProgramKey) -> SamplingProgram | None:
        """An idle program, which then belongs to the caller alone."""
        with self._lock:
            for i in reversed(range(len(self._idle))):
                if self._idle[i][0] == key:
                    return self._idle.pop(i)[1]
        return None

    def _give_back(self, key: ProgramKey, program: SamplingProgram) -> None:
        """Keep a captured program for the next call; others cost nothing to build."""
        if not program.captured:
            program.release()
            return
        budget, evicted = memory_budget(self.device), []
        with self._lock:
            self._idle.append((key, program))
            while len(self._idle) > 1 and (
                len(self._idle) > MAX_PROGRAMS or sum(each.bytes for _, each in self._idle) > budget
            ):
                evicted.append(self._idle.pop(0)[1])
        for each in evicted:
            each.close()


class ProgramKey(NamedTuple):
    """What two calls must have in common to run the same program."""

    batch: int
    schedule: Schedule
    noise_dtype: torch.dtype | None  # None: from seeds
    attention_backend: str
    autotune: bool
    reference_ops: bool
    held: int | None  # None: without pins
    graphs: bool


class ProgramReport(NamedTuple):
    """A program that waits for the next call: images at once, evaluations, bytes of its buffers and graphs."""

    batch: int
    evaluations: int
    bytes: int


class PlanReport(NamedTuple):
    """A plan: its precision, the bytes of weights that it does not share with its networks, its idle programs.

    `choices` are the kernels that were measured for it, by what they compute.
    """

    precision: str
    weight_bytes: int
    programs: list[ProgramReport]
    choices: dict[str, Choice]


def weight_bytes(module: nn.Module) -> dict[int, int]:
    """Sizes of the parameters, and of the matrices of prepacked layers, each under a number of its own."""
    packed = [layer.packed for layer in module.modules() if isinstance(layer, PrepackedLinear)]
    return {each.data_ptr(): each.nbytes for each in module.parameters()} | {id(each): each.nbytes for each in packed}


def memory_budget(device: torch.device) -> float:
    """Bytes that idle programs may hold on a GPU."""
    return MAX_MEMORY_SHARE * torch.cuda.get_device_properties(device).total_memory


def bucket(batch: int) -> int:
    """The batch size of the program that serves `batch` images: 1, 2, 3, 4, 6, 8, 12, 16, 24, ..."""
    power = 1 << (batch - 1).bit_length()
    return power * 3 // 4 if power >= 4 and batch <= power * 3 // 4 else power
