"""The clocks. Variants always take turns, so that drift of the machine meets all of them alike.

Sampling is timed from outside (`time_alternating`): what a caller waits for. Single ops are too short for that on a
GPU: `event_times` and `graph_times` read the GPU's own clock.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

Runs = Mapping[str, Callable[[], object]]
Times = dict[str, list[float]]
Interval = tuple[torch.cuda.Event, torch.cuda.Event]

# More than the L2 cache of any GPU so far; and reading it takes longer than the host needs to launch an op.
FLUSH_BYTES = 512 * 2**20
GRAPH_CALLS = 20  # in one CUDA graph: its own launch then is a small share
MINIMUM_ROUNDS, MAXIMUM_ROUNDS = 10, 300


def time_alternating(runs: Runs, device: torch.device, seconds: float, warmup: float, repeats: int = 2) -> Times:
    """Seconds of every call of every variant, as the caller sees them.

    Args:
        runs: the variants.
        device: waited for before a clock is read.
        seconds: a variant stays in the rounds until it has been measured for this long,
        repeats: and this often, so that a slow one does not keep a fast one from being measured well.
        warmup: calls in the first `warmup` seconds are not counted; 0 if all variants have run already.
    """
    warm_up(runs, device, warmup)
    times: Times = {name: [] for name in runs}
    while measured := [name for name in runs if sum(times[name]) < seconds or len(times[name]) < repeats]:
        for name in measured:
            times[name].append(seconds_of(runs[name], device))
    return times


def event_times(runs: Runs, device: torch.device, seconds: float, warmup: float) -> Times:
    """Seconds of every call on the GPU, with an empty L2 cache: nothing of the arguments is there already."""
    buffer = torch.zeros(FLUSH_BYTES // 4, device=device)

    def flushed(run: Callable[[], object]) -> Callable[[], Interval]:
        def timed() -> Interval:
            # Read, not written: what lies modified in the cache would be written back while the clock runs.
            buffer.sum()
            return between_events(run)

        return timed

    return on_device({name: flushed(run) for name, run in runs.items()}, device, seconds, warmup)


def graph_times(runs: Runs, device: torch.device, seconds: float, warmup: float) -> Times:
    """Seconds of every call on the GPU within a CUDA graph: no launch from the host, arguments in the cache."""

    def captured(run: Callable[[], object]) -> Callable[[], Interval]:
        run()  # what is done at the first call alone cannot be captured
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(GRAPH_CALLS):
                run()
        return lambda: between_events(graph.replay)

    times = on_device({name: captured(run) for name, run in runs.items()}, device, seconds, warmup)
    return {name: [value / GRAPH_CALLS for value in values] for name, values in times.items()}


def between_events(run: Callable[[], object]) -> Interval:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    run()
    end.record()
    return start, end


def on_device(
    timed: Mapping[str, Callable[[], Interval]],
    device: torch.device,
    seconds: float,
    warmup: float,
) -> Times:
    """Rounds for about `seconds` after a warm-up, none of which waits for the GPU before the last has been queued."""
    rounds = warm_up(timed, device, warmup)
    rounds = round(min(max(rounds * seconds / max(warmup, 1e-3), MINIMUM_ROUNDS), MAXIMUM_ROUNDS))
    events: dict[str, list[Interval]] = {name: [] for name in timed}
    for _ in range(rounds):
        for name, run in timed.items():
            events[name].append(run())
    torch.cuda.synchronize(device)
    return {name: [start.elapsed_time(end) / 1e3 for start, end in pairs] for name, pairs in events.items()}


def host_seconds(run: Callable[[], object], device: torch.device, calls: int = 10, repeats: int = 15) -> float:
    """What one call costs the host; on a GPU without its work, on a CPU with it.

    So few calls that the GPU's queue never is full: then the host would wait for it.
    """
    times = []
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        for _ in range(calls):
            run()
        times.append((time.perf_counter() - start) / calls)
    synchronize(device)
    return statistics.median(times)


def warm_up(runs: Runs, device: torch.device, seconds: float) -> int:
    """Run all variants in turns for `seconds`; how many rounds that were."""
    rounds, until = 0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        for run in runs.values():
            seconds_of(run, device)
        rounds += 1
    return rounds


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """The wall time of one call, the work that it leaves on the device included."""
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait for `device`; the CPU is always done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def summary(times: Sequence[float]) -> dict[str, float]:
    """Median and percentiles (interpolated)."""
    ordered = sorted(times)

    def quantile(share: float) -> float:
        position = share * (len(ordered) - 1)
        low = int(position)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (position - low) * (ordered[high] - ordered[low])

    return {"median": statistics.median(ordered), "p20": quantile(0.2), "p80": quantile(0.8), "p99": quantile(0.99)}
