"""How fast the ops are: bytes moved per second next to the copy rate of the same run, plain PyTorch, and torch.compile.

    python benchmarks/ops_speed.py
    python benchmarks/ops_speed.py --ops geglu silu_add --dtype float32 --quick

Before an op is timed it must agree with its definition; otherwise the exit code is 1. README.md explains the numbers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from op_calls import CONFIG, OPS, Call, Calls, gradients, results
from record import dtype_name, save_results, settings_of
from tables import table
from timing import Times, event_times, graph_times, host_seconds, summary, time_alternating
from torch import Tensor

from flowar import ops
from flowar.errors import first_line
from flowar.ops import reference
from flowar.system.precision import default_device, parse_dtype

# Images (both halves of guidance) at the finest scale: 32,768 rows, FlowAR-L's last scale at batch 64; a CPU has fewer.
LARGE_BATCH = {"cuda": 128, "cpu": 2}
SMALL_BATCH = 2  # one image
COPY_BYTES = {"cuda": 2**30, "cpu": 2**27}  # far more than any cache
HEADER = ("op", "call", "rows", "pass", "MB", "us", "p20", "p80", "GB/s", "of copy", "eager", "compile")
HOST_HEADER = ("op", "call", "host us", "eager")


def main() -> None:
    options = parse_arguments()
    device = default_device(options.device)
    dtype = parse_dtype(options.dtype) or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    copy_rate = measure_copy(device, options.seconds)
    settings = settings_of(options) | {"dtype": dtype_name(dtype)}
    values: dict[str, Any] = {"settings": settings, "copy_gb_s": copy_rate, "calls": [], "host": [], "skipped": []}

    def save() -> Path:
        return save_results("ops_speed", device, options.output, values)

    for call, large in plan(options, dtype, device, values["skipped"]):
        values["calls"] += measure(call, large, options, copy_rate, device, values["skipped"])
        save()
    values["host"] = [host_cost(call, device) for call in host_calls(options.ops, dtype, device)]
    print(table(HEADER, [row(result) for result in values["calls"]]))
    print(f"\ncopy: {copy_rate:.0f} GB/s; us: median of this package's op; eager, compile: times as long\n")
    print(table(HOST_HEADER, [list(result.values()) for result in values["host"]]))
    for reason in values["skipped"]:
        print(f"skipped: {reason}")
    print(save())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed of every op, after a check against its definition.")
    parser.add_argument("--ops", nargs="+", choices=OPS, default=OPS, metavar="OP", help=" ".join(OPS))
    parser.add_argument("--dtype", help="float32 bfloat16 float16; by default bfloat16 on a GPU, float32 on a CPU")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=0.3, help="to measure each call for")
    parser.add_argument("--quick", action="store_true", help="one image alone, without torch.compile")
    parser.add_argument("--output", type=Path, help="JSON file; by default in benchmarks/results")
    return parser.parse_args()


def plan(
    options: argparse.Namespace, dtype: torch.dtype, device: torch.device, skipped: list[str]
) -> Iterator[tuple[Call, bool]]:
    """Every call, and whether it is large enough for the bandwidth to show."""
    names = [name for name in options.ops if device.type == "cpu" or name in ops.cuda_kernels()]
    skipped += [f"{name}: no CUDA kernel is built" for name in options.ops if name not in names]
    finest = len(CONFIG.grids) - 1
    if not options.quick:
        for call in Calls(LARGE_BATCH[device.type], finest, dtype, device).of(names):
            yield call, True
    for scale in range(finest + 1):
        small = [name for name in names if name != "latent_pyramid" or scale == finest]  # it knows no scales
        for call in Calls(SMALL_BATCH, scale, dtype, device).of(small):
            yield replace(call, moved_backward=0), False


def measure(
    call: Call, large: bool, options: argparse.Namespace, copy_rate: float, device: torch.device, skipped: list[str]
) -> list[dict[str, Any]]:
    """Check the op, then time it: forward, and backward where it has one."""
    what = f"{call.op} ({call.form})"
    check(what, results(call, ops), results(call, reference), results(call, reference, double), slack=1)
    functions: dict[str, Callable[..., Any]] = {"flowar": getattr(ops, call.op), "eager": reference_of(call)}
    if large and (compiled := compile_reference(call, skipped)):
        functions["compile"] = compiled
    clock, ceiling = choose_clock(large, device), copy_rate if large else None
    runs = {name: bind(call, function) for name, function in functions.items()}
    with torch.inference_mode():
        measured = [result(call, "forward", call.moved, clock(runs, options.seconds), ceiling)]
    if call.moved_backward:
        passes = {name: gradients(call, function) for name, function in functions.items()}
        exact = gradients(call, reference_of(call), double)()
        check(f"{what}, backward", passes["flowar"](), passes["eager"](), exact, slack=4)
        measured.append(result(call, "backward", call.moved_backward, clock(passes, options.seconds), ceiling))
    return measured


def result(call: Call, direction: str, moved: int, times: Times, ceiling: float | None) -> dict[str, Any]:
    """What is recorded of one direction."""
    variants = {name: summary(seconds) for name, seconds in times.items()}
    rate = moved / variants["flowar"]["median"] / 1e9
    return {
        "op": call.op,
        "call": call.form,
        "rows": call.rows,
        "pass": direction,
        "bytes": moved,
        "variants": variants,
        "gb_s": rate,
        "of_copy": None if ceiling is None else rate / ceiling,
    }


def reference_of(call: Call) -> Callable[..., Any]:
    """The op's definition."""
    function: Callable[..., Any] = getattr(reference, call.op)
    return function


def bind(call: Call, function: Callable[..., Any]) -> Callable[[], object]:
    return lambda: function(*call.arguments)


def choose_clock(large: bool, device: torch.device) -> Callable[[Mapping[str, Callable[[], object]], float], Times]:
    """On a GPU: for large calls one call at a time on an empty cache, for small ones many in a CUDA graph."""

    def clock(runs: Mapping[str, Callable[[], object]], seconds: float) -> Times:
        if device.type != "cuda":
            return time_alternating(runs, device, seconds / len(runs), warmup=seconds / 3, repeats=5)
        return (event_times if large else graph_times)(runs, device, seconds, warmup=seconds / 3)

    return clock


def compile_reference(call: Call, skipped: list[str]) -> Callable[..., Any] | None:
    """The definition under torch.compile, or None and a word where that does not work here."""
    torch.compiler.reset()
    compiled: Callable[..., Any] = torch.compile(reference_of(call), dynamic=False)
    try:
        # The backward is run several times from one forward pass.
        with torch._functorch.config.patch(donated_buffer=False):
            with torch.inference_mode():
                compiled(*call.arguments)
            if call.moved_backward:
                gradients(call, compiled)()
    except Exception as error:  # whatever the compiler, its own compiler, or its driver raises
        skipped.append(f"torch.compile of {call.op} ({call.form}): {first_line(error)}")
        return None
    return compiled


def check(what: str, ours: Sequence[Tensor], eager: Sequence[Tensor], exact: Sequence[Tensor], slack: float) -> None:
    """Ends the program unless every result errs at most twice as much as plain PyTorch in the same precision.

    Both against float64; `slack` roundings of the largest value are granted, as in the tests.
    """
    for mine, theirs, truth in zip(ours, eager, exact, strict=True):
        rounding = slack * torch.finfo(theirs.dtype).eps * truth.abs().max()
        error, allowed = (mine - truth).abs().max(), 2 * (theirs - truth).abs().max() + rounding
        if not error <= allowed:
            sys.exit(f"{what}: error {error:.3g}, expected at most {allowed:.3g}")


def double(x: Tensor) -> Tensor:
    return x.double()


def measure_copy(device: torch.device, seconds: float) -> float:
    """GB/s of one large copy, bytes read and written: the ceiling of this run."""
    source = torch.zeros(COPY_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = choose_clock(True, device)({"copy": lambda: target.copy_(source)}, seconds)["copy"]
    return 2 * source.numel() / summary(times)["median"] / 1e9


def host_calls(names: Sequence[str], dtype: torch.dtype, device: torch.device) -> list[Call]:
    """One call of every op that has a kernel here, as small as the model makes it."""
    names = [name for name in names if device.type == "cpu" or name in ops.cuda_kernels()]
    return [next(Calls(SMALL_BATCH, 0, dtype, device).of([name])) for name in names]


def host_cost(call: Call, device: torch.device) -> dict[str, Any]:
    """Microseconds of host time of one call as sampling makes it."""
    with torch.inference_mode():
        times = [host_seconds(bind(call, getattr(module, call.op)), device) for module in (ops, reference)]
    ours, eager = (f"{seconds * 1e6:.1f}" for seconds in times)
    return {"op": call.op, "call": call.form, "flowar_us": ours, "eager_us": eager}


def row(result: Mapping[str, Any]) -> list[str]:
    """One line of the table; the others as ratios to this package's op."""
    ours, others = result["variants"]["flowar"], result["variants"]
    ratios = [
        f"{others[name]['median'] / ours['median']:.2f} x" if name in others else "" for name in ("eager", "compile")
    ]
    share = "" if result["of_copy"] is None else f"{100 * result['of_copy']:.0f} %"
    times = [f"{ours[key] * 1e6:.1f}" for key in ("median", "p20", "p80")]
    rate = [f"{result['bytes'] / 1e6:.3g}", *times, f"{result['gb_s']:.3g}" if share else "", share]
    return [result["op"], result["call"], str(result["rows"]), result["pass"], *rate, *ratios]


if __name__ == "__main__":
    main()
