"""The inference plan: the numbers of the published algorithm, with less work.

Its savings, each exact, and each a field of `flowar.engine.packed.Savings`:

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
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowar import ops
from flowar.config import FlowARConfig
from flowar.engine import cuda_graph
from flowar.engine.packed import PackedNetworks, Savings, contents, default_savings
from flowar.engine.program import SamplingProgram
from flowar.networks.ar_transformer import ARTransformer
from flowar.networks.attention_backends import attention_backend
from flowar.networks.flow_transformer import FlowTransformer
from flowar.networks.latent_pyramid import LatentPyramid
from flowar.sampling.callbacks import Callbacks
from flowar.sampling.pins import Pins
from flowar.sampling.schedule import Schedule
from flowar.system.autotune import Choice, autotune_enabled
from flowar.system.precision import Precision, resolve_precision

# Programs of a pool that wait for the next call, in number and as a share of the GPU's memory.
MAX_PROGRAMS = 8
MAX_MEMORY_SHARE = 0.3


class InferencePlan:
    """Sampling in one precision: the networks packed for it, and programs that run them.

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
        savings = default_savings(parameter.device) if savings is None else savings
        self.networks = PackedNetworks(ar, flow, pyramid, config, precision, savings)
        self.pool = ProgramPool(parameter.device)
        self._uses_graphs = savings.graphs and cuda_graph.available(parameter.device)

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
        with self.networks.in_effect():
            program = self.pool.take(key) or self._build(key)
            try:
                return program.run(class_labels, noise, callbacks, pins)
            finally:
                self.pool.give_back(key, program)

    def close(self) -> None:
        """Let go of the memory of all programs that are not at work; what could not be captured is tried again."""
        self.pool.close()

    def report(self) -> PlanReport:
        """What this plan holds in memory, and which kernels it uses."""
        networks = self.networks
        scales, choices = len(networks.lengths), {} if networks.tuner is None else dict(networks.tuner.choices)
        programs = [
            ProgramReport(key.batch, key.schedule.num_evaluations(scales), program.bytes)
            for key, program in self.pool.waiting()
        ]
        return PlanReport(networks.precision.name, networks.own_bytes(), programs, choices)

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
        return eager if callbacks.watch_inside or not self._uses_graphs or self.pool.failed(captured) else captured

    def _build(self, key: ProgramKey) -> SamplingProgram:
        program = SamplingProgram(self.networks, key.schedule, key.batch, key.noise_dtype, key.held)
        if key.graphs and not cuda_graph.try_capture(program.capture, self.pool.make_room, "sampling"):
            self.pool.remember_failure(key)
        return program


class Plans:
    """The inference plans of one model, one a precision, each made again when a weight has changed or moved.

    A copy or a pickle of it is empty: a copied model packs its own weights when it samples.
    """

    def __init__(self) -> None:
        self._plans: dict[Precision, tuple[list[Any], Tensor, InferencePlan]] = {}
        self._lock = threading.Lock()  # two threads that sample from one model share its plan

    def __reduce__(self) -> tuple[type[Plans], tuple[()]]:
        return Plans, ()

    def clear(self) -> None:
        """Let go of all plans, and of their memory."""
        with self._lock:
            plans, self._plans = self._plans, {}
        for _, _, plan in plans.values():
            plan.close()

    def plan(
        self,
        ar: ARTransformer,
        flow: FlowTransformer,
        pyramid: LatentPyramid,
        config: FlowARConfig,
        precision: Precision,
    ) -> InferencePlan:
        """The plan for `precision`; arguments as of `InferencePlan`, those of the same model at every call."""
        parts, sums = contents(ar, flow)
        with self._lock:
            if precision in self._plans:
                packed_parts, packed_sums, plan = self._plans[precision]
                if packed_parts == parts and torch.equal(packed_sums, sums):
                    return plan
                plan.close()
            plan = InferencePlan(ar, flow, pyramid, config, precision)
            self._plans[precision] = parts, sums, plan
            return plan


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


class ProgramPool:
    """The captured programs of a plan that are not at work: a call takes the one that fits it, and gives it back.

    Those that were used last stay, at most `MAX_PROGRAMS` of them and within `memory_budget`.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._idle: list[tuple[ProgramKey, SamplingProgram]] = []  # the last used last
        self._failed: set[ProgramKey] = set()  # what could not be captured
        self._lock = threading.Lock()

    def take(self, key: ProgramKey) -> SamplingProgram | None:
        """A program that waits for such a call, which it then belongs to alone."""
        with self._lock:
            for i in reversed(range(len(self._idle))):
                if self._idle[i][0] == key:
                    return self._idle.pop(i)[1]
        return None

    def give_back(self, key: ProgramKey, program: SamplingProgram) -> None:
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

    def waiting(self) -> list[tuple[ProgramKey, SamplingProgram]]:
        """The programs that wait, the last used last."""
        with self._lock:
            return [*self._idle]

    def failed(self, key: ProgramKey) -> bool:
        """Whether a program for such calls could not be captured."""
        with self._lock:
            return key in self._failed

    def remember_failure(self, key: ProgramKey) -> None:
        """Do not try again to capture a program for such calls, until `close`."""
        with self._lock:
            self._failed.add(key)

    def make_room(self) -> bool:
        """Let go of the programs that wait; whether there were any."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, program in idle:
            program.close()
        return bool(idle)

    def close(self) -> None:
        """Let go of the programs that wait; what could not be captured is tried again."""
        self.make_room()
        with self._lock:
            self._failed.clear()


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


def memory_budget(device: torch.device) -> float:
    """Bytes that idle programs may hold on a GPU."""
    return MAX_MEMORY_SHARE * torch.cuda.get_device_properties(device).total_memory


def bucket(batch: int) -> int:
    """The batch size of the program that serves `batch` images: 1, 2, 3, 4, 6, 8, 12, 16, 24, ..."""
    power = 1 << (batch - 1).bit_length()
    return power * 3 // 4 if power >= 4 and batch <= power * 3 // 4 else power
