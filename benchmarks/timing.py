"""What all benchmarks share: alternating timings, their summary, a table, and a record of the machine."""

from __future__ import annotations

import re
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flowar.commands.info import machine_facts
from flowar.files import write_json

RESULTS = Path(__file__).parent / "results"

Runs = Mapping[str, Callable[[], object]]


def time_alternating(
    runs: Runs, device: torch.device, seconds: float, warmup: float, repeats: int = 2
) -> dict[str, list[float]]:
    """Seconds of every call of every variant, the variants taking turns so that drift meets all of them alike.

    Args:
        runs: the variants.
        device: waited for before a clock is read.
        seconds: rounds go on until this much time has been measured,
        repeats: and every variant has run this often.
        warmup: calls in the first `warmup` seconds are not counted; 0 if all variants have run already.
    """
    until = time.perf_counter() + warmup
    while time.perf_counter() < until:
        for run in runs.values():
            seconds_of(run, device)
    times: dict[str, list[float]] = {name: [] for name in runs}
    while sum(map(sum, times.values())) < seconds or min(map(len, times.values())) < repeats:
        for name, run in runs.items():
            times[name].append(seconds_of(run, device))
    return times


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
    """Median, 20th and 80th percentile (interpolated)."""
    ordered = sorted(times)

    def quantile(share: float) -> float:
        position = share * (len(ordered) - 1)
        low = int(position)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (position - low) * (ordered[high] - ordered[low])

    return {"median": statistics.median(ordered), "p20": quantile(0.2), "p80": quantile(0.8)}


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as they need to be: words to the left, numbers (as strings, too) to the right."""
    cells = [[*map(str, row)] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [all(re.match(r"^[\d.±<>=% x-]+$", row[i]) for row in cells[1:]) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        parts = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        return "  ".join(parts).rstrip()

    return "\n".join([line(cells[0]), "  ".join("-" * width for width in widths), *map(line, cells[1:])])


def environment(device: torch.device) -> dict[str, Any]:
    """Everything about the machine and the code that a number depends on."""
    return {"device": device_name(device), "device type": device.type, "commit": commit()} | machine_facts()


def device_name(device: torch.device) -> str:
    """The name of the GPU or the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(machine_facts()["cpu"])


def commit(folder: Path = RESULTS.parent) -> str:
    """The commit of the checkout, "+changes" if tracked files differ from it; "unknown" outside of one."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if git("status", "-s", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def save_results(benchmark: str, device: torch.device, output: Path | None, values: Mapping[str, Any]) -> Path:
    """Write `values` and the environment as JSON, by default into `results/`, one file a benchmark and device."""
    slug = re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")
    path = output or RESULTS / f"{benchmark}-{slug}.json"
    write_json(path, {"benchmark": benchmark, "environment": environment(device), **values})
    return path


@torch.no_grad()
def fill_weights(model: nn.Module, seed: int = 0) -> None:
    """Deterministic weights under which every layer matters: at initialisation, gates and output are zero.

    Matrices are normal, scaled by their fan-in; norms are near 1. The output is damped, so that sampling is well
    conditioned and two correct ways to compute it stay close.
    """
    for index, (name, parameter) in enumerate(model.named_parameters()):
        generator = torch.Generator(parameter.device).manual_seed(seed + index)
        parameter.normal_(generator=generator)
        if name.endswith("norm.weight"):
            parameter.mul_(0.1).add_(1)
        else:
            damping = 0.1 if "output_proj" in name else 1.0
            parameter.mul_(damping / parameter[0].numel() ** 0.5 if parameter.dim() > 1 else 0.1)
