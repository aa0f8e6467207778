"""The choice of the fastest of several functions that compute the same, by measurement and once for every shape.

The first candidate is the default. Another wins only if it computes the same up to rounding and is clearly faster, so
that noise does not decide. Choices hold for the process; they may differ between machines, and between two runs where
two candidates are about as fast. `set_autotune(False)` keeps to the defaults.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from flowar.errors import first_line
from flowar.system.arguments import check_type

Candidates = Mapping[str, Callable[[], Tensor]]
Clock = Callable[[Callable[[], object]], float]  # seconds of one call

MARGIN = 0.03  # a challenger must be faster than the default by this share
ROUNDS = 7  # of one measurement of every candidate, of which the median counts
LAUNCHES = 10  # in one measurement on a GPU
HEAD_START = 1_000_000  # cycles that a GPU waits, in which the host launches all of them


class Choice(NamedTuple):
    """The chosen candidate, the seconds of all that were measured, and the reasons why others were left out."""

    name: str
    seconds: dict[str, float]
    left_out: dict[str, str]

    def __str__(self) -> str:
        times = ", ".join(f"{name} {1e6 * seconds:.1f} us" for name, seconds in self.seconds.items())
        return f"{self.name} ({times})" if times else self.name


def choose(candidates: Candidates, clock: Clock) -> Choice:
    """Choose the fastest of `candidates`, or the first that works if none is clearly faster.

    Raises:
        RuntimeError: if none of them works.
    """
    working, left_out = compare(candidates)
    if not working:
        raise RuntimeError(f"expected one of {', '.join(candidates)} to work, got {left_out}")
    default = next(iter(working))
    if len(working) == 1:
        return Choice(default, {}, left_out)
    times: dict[str, list[float]] = {name: [] for name in working}
    for _ in range(ROUNDS):  # in turns: what slows the machine down slows all of them down
        for name, call in working.items():
            times[name].append(clock(call))
    seconds = {name: median(each) for name, each in times.items()}
    fastest = min(seconds, key=seconds.__getitem__)
    return Choice(fastest if seconds[fastest] < (1 - MARGIN) * seconds[default] else default, seconds, left_out)


def compare(candidates: Candidates) -> tuple[dict[str, Callable[[], Tensor]], dict[str, str]]:
    """The candidates that compute the same as the first one that works, and what is wrong with the others."""
    working: dict[str, Callable[[], Tensor]] = {}
    left_out: dict[str, str] = {}
    expected: Tensor | None = None
    for name, call in candidates.items():
        try:
            result = call()
            same = expected is None or close(result, expected)
        except Exception as error:  # whatever a kernel or its compiler raises: the others still serve
            left_out[name] = first_line(error)
            continue
        if same:
            working[name] = call
            expected = result if expected is None else expected
        else:
            left_out[name] = f"expected the numbers of {next(iter(working))}, got others"
    return working, left_out


def close(got: Tensor, expected: Tensor) -> bool:
    """Whether two results of one dtype differ, in the root mean square, by no more than its rounding."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return False
    tolerance = max(4 * torch.finfo(got.dtype).eps, 1e-5)  # 1e-5: float32 sums of thousands of terms in another order
    wide = torch.promote_types(got.dtype, torch.float32)
    norm = expected.to(wide).norm()
    return bool((got.to(wide) - expected.to(wide)).norm() <= tolerance * norm)


_chosen: dict[tuple[str, str], Choice] = {}  # by device and call
_one_at_a_time = threading.Lock()  # of two that measure at once each would measure the other


class Tuner:
    """Chooses candidates on one device, and keeps in `choices` those that its users asked for."""

    def __init__(self, clock: Clock, device: str) -> None:
        self.clock, self.device = clock, device
        self.choices: dict[str, Choice] = {}

    def fastest(self, call: str, candidates: Callable[[], Candidates]) -> str:
        """The name of the candidate for `call`, which names what is computed and its shape."""
        if call not in self.choices:
            with _one_at_a_time:
                key = (self.device, call)
                if key not in _chosen:
                    _chosen[key] = choose(candidates(), self.clock)
                self.choices[call] = _chosen[key]
        return self.choices[call].name


class _Active(threading.local):
    tuner: Tuner | None = None


_active = _Active()
_enabled = True


def active_tuner() -> Tuner | None:
    """The tuner of calls made now, on this thread; None if defaults serve."""
    return _active.tuner


@contextmanager
def use_tuner(tuner: Tuner | None) -> Iterator[None]:
    """Choose by `tuner` in this context, on this thread."""
    before, _active.tuner = _active.tuner, tuner
    try:
        yield
    finally:
        _active.tuner = before


def set_autotune(enabled: bool) -> None:
    """Choose whether a GPU measures which kernels are fastest; otherwise the defaults serve, the same in every run.

    Raises:
        ValueError: for what is neither true nor false.
    """
    global _enabled
    check_type("enabled", enabled, bool, "true or false")
    _enabled = enabled


def autotune_enabled() -> bool:
    """Whether a GPU measures which kernels are fastest, see `set_autotune`; True at start-up."""
    return _enabled


def gpu_tuner(device: torch.device) -> Tuner | None:
    """A tuner for a GPU of this machine; None for other devices, on which nothing is measured."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    return Tuner(lambda call: gpu_seconds(call, device), torch.cuda.get_device_name(device))


def gpu_seconds(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call on the current stream of a GPU by its own clock, without the host's time between launches."""
    with torch.cuda.device(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(HEAD_START)
        start.record()
        for _ in range(LAUNCHES):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000 / LAUNCHES
