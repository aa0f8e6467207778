"""The sampling of one batch size under one schedule: its buffers, and the work of every scale."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor

from flowar import ops
from flowar.engine.cuda_graph import StreamOrder, capture
from flowar.engine.packed import PackedNetworks
from flowar.engine.steering import Steering, TimeTables
from flowar.sampling.callbacks import Callbacks, Constrain, OnStep
from flowar.sampling.pins import Pins, pin
from flowar.sampling.schedule import Schedule
from flowar.sampling.solvers import integrate
from flowar.system.transfer import to_device

# Bytes of the widest activation of one step on a CPU: more images than that are integrated group by group, so that what
# one layer writes is still in the caches for the next. A GPU takes all at once.
ACTIVATION_BUDGET = 8 * 2**20


class SamplingProgram:
    """Runs from the same inputs over the same memory every time, with nothing that a CUDA graph could not replay.

    Not for two calls at once.
    """

    def __init__(
        self,
        networks: PackedNetworks,
        schedule: Schedule,
        batch: int,
        noise_dtype: torch.dtype | None,
        held: int | None = None,
    ) -> None:
        """`batch` images from given noise of `noise_dtype`, or, where that is None, from seeds.

        held: of the pins that `run` is given, see `Pins.held`; None if it is given none.
        """
        device, scales, channels = networks.device, len(networks.lengths), networks.channels
        self.networks, self.batch = networks, batch
        self.evaluations = [schedule.evaluations(k, scales) for k in range(scales)]
        self.weights = [schedule.guidance_weights(k, scales) for k in range(scales)]
        guided = any(weight != 1 for weights in self.weights for weight in weights)
        self.labels = torch.full(((2 if guided else 1) * batch,), networks.null_class, device=device)
        self.seeds = torch.zeros(batch, dtype=torch.int64, device=device)

        def buffers(width: int, dtype: torch.dtype) -> list[Tensor]:
            return [torch.zeros(batch, n, width, dtype=dtype, device=device) for n in networks.lengths]

        self.noise = None if noise_dtype is None else buffers(channels, noise_dtype)
        self.held = held
        self.pins: Pins | None = None
        if held is not None:
            self.pins = Pins(buffers(channels, networks.state_dtype), buffers(1, networks.state_dtype))
        self.cache = networks.ar.new_cache(len(self.labels), networks.dtype)
        grids = [tuple(each.interval for each in evaluations) for evaluations in self.evaluations]
        tables = {grid: TimeTables(networks, to_device(torch.tensor(grid), device)) for grid in {*grids}}
        self.tables = [tables[grid] for grid in grids]  # scales with the same times share theirs
        self.modulations: Sequence[Tensor] = ()
        self.tokens = [torch.empty(0)] * scales
        self.callbacks = Callbacks()
        self.works: Sequence[Callable[[], Tensor]] = [partial(self._scale, k) for k in range(scales)]
        self.captured, self.bytes = False, 0
        self.order: StreamOrder | None = None  # of a captured program, which calls take one after the other

    def capture(self) -> None:
        """Turn the work of every scale into a CUDA graph.

        Raises:
            RuntimeError: if that fails; the program then runs as before.
        """
        self.works, pool_bytes = capture(self.works, self.networks.device)
        self.order = StreamOrder(self.networks.device)
        self.captured, self.bytes = True, pool_bytes + self.cache.keys.nbytes + self.cache.values.nbytes

    def run(
        self,
        class_labels: Tensor,
        noise: Sequence[Tensor] | Tensor,
        callbacks: Callbacks,
        pins: Pins | None = None,
    ) -> Tensor:
        """Tokens of the last scale [b, n, c] for b <= batch labels, their noise or seeds [b], and their pins."""
        with self.order or nullcontext():
            self._fill(class_labels, [noise] if isinstance(noise, Tensor) else noise, pins)
            return self._run(len(class_labels), callbacks)

    def close(self) -> None:
        """Wait until the memory of this program may be used for something else, and let go of it."""
        if self.order is not None:
            self.order.synchronize()
        self.release()

    def release(self) -> None:
        """Let go of the memory: works refer to their program, and only a garbage collection would end that circle."""
        self.works, self.tokens = (), []

    def _fill(self, class_labels: Tensor, noise: Sequence[Tensor], pins: Pins | None) -> None:
        """Put what a call brings where the work reads it."""
        buffers, values = [self.labels, *(self.noise or [self.seeds])], [class_labels, *noise]
        if self.pins is not None and pins is not None:
            buffers, values = [*buffers, *self.pins.tokens, *self.pins.masks], [*values, *pins.tokens, *pins.masks]
        for buffer, value in zip(buffers, values, strict=True):
            buffer[: len(class_labels)].copy_(value, non_blocking=True)

    def _run(self, count: int, callbacks: Callbacks) -> Tensor:
        self.callbacks = Callbacks() if self.captured else callbacks
        for k, work in enumerate(self.works):
            tokens = work()[:count]
            if self.captured:
                for _ in self.weights[k]:
                    callbacks.on_step()
            if callbacks.on_scale is not None:
                callbacks.on_scale(k, tokens.clone())
        return tokens.clone()

    def _scale(self, k: int) -> Tensor:
        """Tokens [batch, n_k, c] of scale k, given those of the scale before."""
        networks, rows = self.networks, len(self.labels) // self.batch
        if k == 0:
            self.cache.offset = 0
        if k == 0 or not networks.savings.class_modulations_once:
            self.modulations = networks.ar.modulations(self.labels)
        inputs = None
        if k > 0:
            inputs = networks.pyramid.upsample(self.tokens[k - 1], k).to(networks.dtype).repeat(rows, 1, 1)
        z = networks.ar.step(inputs, self.labels, self.modulations, self.cache)  # [batch or 2 batch, n_k, D]
        if self.held is not None and k < self.held:
            self.tokens[k] = self._arrived(k)
            return self.tokens[k]
        state = self._start(k)
        groups = [*self._groups(state, z)]
        on_step = every(len(groups), self.callbacks.on_step)
        for part, conditions in groups:
            self._integrate(k, state[part], conditions, on_step, self._constraint(k, state[part], part))
        self.tokens[k] = state
        return state

    def _arrived(self, k: int) -> Tensor:
        """The tokens of a scale that is pinned everywhere."""
        assert self.pins is not None
        for _ in self.weights[k]:
            self.callbacks.on_step()
        return self.pins.tokens[k].clone()

    def _constraint(self, k: int, state: Tensor, images: slice) -> Constrain | None:
        """What becomes of the state [b, n, c], now noise, of some images after every evaluation.

        It is kept on the path to what is pinned, and shown to whoever watches.
        """
        pinned = None
        if self.pins is not None:
            pinned = partial(pin, state, state.clone(), self.pins.tokens[k][images], self.pins.masks[k][images])
        return self.callbacks.after_steps(k, state, pinned)

    def _groups(self, state: Tensor, z: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Which images are integrated together, and views of their conditions [b or 2b, n, D]."""
        halves, size = z.view(-1, *state.shape[:2], z.shape[-1]), len(state)
        if state.device.type == "cpu" and not self.callbacks.watch_inside:
            image_bytes = halves[:, 0, :, 0].numel() * self.networks.flow.widest * z.element_size()
            size = max(1, ACTIVATION_BUDGET // image_bytes)
        for start in range(0, len(state), size):
            yield slice(start, start + size), halves[:, start : start + size].flatten(0, 1)

    def _start(self, k: int) -> Tensor:
        """The noise of scale k, to be changed in place."""
        if self.noise is not None:
            return self.noise[k].clone()
        n, channels = self.networks.lengths[k], self.networks.channels
        noise = ops.counter_normal(self.seeds, k, n * channels).view(self.batch, n, channels)
        return noise.to(self.networks.state_dtype)

    def _integrate(self, k: int, state: Tensor, z: Tensor, on_step: OnStep, constrain: Constrain | None) -> None:
        """The ODE of scale k from its noise, for some of the images, in place."""
        weights, batch = self.weights[k], len(state)
        rows = [len(z) if weight != 1 or not self.networks.savings.conditional_half else batch for weight in weights]
        steering = Steering(self.networks, self.tables[k], z, k)
        steps = steering.steps(rows)
        network_input = state.to(self.networks.dtype).repeat(max(rows) // batch, 1, 1)

        def velocity(i: int) -> Tensor:
            on_step()
            contexts, output_modulation = next(steps)
            x = network_input[: rows[i]]
            return steering.flow.run(x, contexts, output_modulation, steering.rotation, steering.lengths)

        watch = self.callbacks.on_evaluation and partial(self.callbacks.on_evaluation, k)
        integrate(velocity, state, self.evaluations[k], weights, network_input, constrain, watch)


def every(count: int, callback: OnStep) -> OnStep:
    """A function whose every `count`-th call calls `callback`."""
    calls = itertools.count(1)
    return lambda: None if next(calls) % count else callback()
