"""Where the time of one call goes: stages and scales, launches. Each in runs of its own, since looking costs time."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch._C._autograd import DeviceType

from flowar.sampling.callbacks import Callbacks

LAUNCH = re.compile(r"cu(da)?(Launch|GraphLaunch|Memcpy|Memset)")
COPIES = ("Memcpy", "Memset")

Mark = float | torch.cuda.Event

# Kinds of work on a CPU, by the names of torch's operators.
KINDS = (
    ("matrix products", re.compile(r"aten::(add)?mm|aten::(bad+)?bmm|mkldnn::_linear")),
    ("attention", re.compile(r"aten::_scaled_dot_product")),
    ("this package's ops", re.compile(r"flowar::")),
    ("optimizer, clipping, averages", re.compile(r"aten::_(foreach|fused)_")),
    ("copies", re.compile(r"aten::(copy_|cat|repeat|clone|fill_|zero_)")),
)


class StageClock:
    """Milliseconds of the AR transformer and of the ODE at every scale, by the sampler's two callbacks.

    The first step of a scale ends its AR part, to which belongs what the engine prepares for the steps. A sampler
    whose scales are CUDA graphs calls `on_step` afterwards: of it only the sums mean anything.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.marks = [self._now()]  # start; then, scale by scale, the first step and the end

    def on_step(self) -> None:
        if len(self.marks) % 2:
            self.marks.append(self._now())

    def on_scale(self, *_: object) -> None:
        self.marks.append(self._now())

    def milliseconds(self) -> tuple[list[float], list[float]]:
        """Of the AR part and of the ODE, scale by scale."""
        parts = [self._between(a, b) for a, b in zip(self.marks, self.marks[1:], strict=False)]
        return parts[::2], parts[1::2]

    def _now(self) -> Mark:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @staticmethod
    def _between(a: Any, b: Any) -> float:
        if isinstance(a, float):
            return 1e3 * (b - a)
        b.synchronize()
        return float(a.elapsed_time(b))


def stage_times(run: Callable[[Callbacks], object], device: torch.device, repeats: int = 5) -> dict[str, list[float]]:
    """Medians of `run(callbacks)`, after a call that does not count: {"ar_ms": [K], "ode_ms": [K]}."""
    clocks = []
    for _ in range(repeats + 1):
        clocks.append(StageClock(device))
        run(Callbacks(clocks[-1].on_step, clocks[-1].on_scale))
    ar, ode = zip(*(clock.milliseconds() for clock in clocks[1:]), strict=True)
    return {"ar_ms": medians(ar), "ode_ms": medians(ode)}


def medians(runs: Iterable[list[float]]) -> list[float]:
    return [statistics.median(values) for values in zip(*runs, strict=True)]


def kinds_of_work(run: Callable[[], object]) -> dict[str, float]:
    """Milliseconds of one call on a CPU by kind; what is in no operator is Python and the way into them."""
    run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        started = time.perf_counter()
        run()
        elapsed = 1e3 * (time.perf_counter() - started)
    return sum_by_kind(((each.key, each.self_cpu_time_total / 1e3) for each in profiler.key_averages()), elapsed)


def sum_by_kind(operators: Iterable[tuple[str, float]], elapsed: float) -> dict[str, float]:
    """Of operators' names and own times."""
    sums = dict.fromkeys([kind for kind, _ in KINDS] + ["other operators"], 0.0)
    for name, own in operators:
        kind = next((kind for kind, pattern in KINDS if pattern.match(name)), "other operators")
        sums[kind] += own
    return sums | {"between operators": max(0.0, elapsed - sum(sums.values()))}


def count_launches(run: Callable[[], object], device: torch.device) -> dict[str, int]:
    """Kernels that the GPU runs, and calls by which the host starts work there: of one call of `run`."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize(device)
    return launches_of(profiler.events() or [])


def launches_of(events: Iterable[Any]) -> dict[str, int]:
    """Of a profile; copies and memory sets are launches, but no kernels."""
    kernels = launches = 0
    for event in events:
        if event.device_type == DeviceType.CUDA:
            kernels += not event.name.startswith(COPIES)
        else:
            launches += bool(LAUNCH.match(event.name))
    return {"kernels": kernels, "launches": launches}
