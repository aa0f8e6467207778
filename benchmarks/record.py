"""Where a number comes from: machine, versions, commit; and the file that keeps all of it."""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tables import slug

from flowar.commands.info import machine_facts
from flowar.system.files import write_json
from flowar.system.precision import default_device

RESULTS = Path(__file__).parent / "results"


def environment(device: torch.device) -> dict[str, Any]:
    """Everything about the machine and the code that a number depends on."""
    return {"device": device_name(device), "device type": device.type, "commit": commit()} | machine_facts()


def device_of(options: argparse.Namespace) -> torch.device:
    """The device that was asked for; torch is told of the threads that were."""
    if options.threads:
        torch.set_num_threads(options.threads)
    return default_device(options.device)


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What was asked for on the command line, but for where the results go."""
    return {key: value for key, value in vars(options).items() if key != "output"}


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


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
    path = output or RESULTS / f"{benchmark}-{slug(device_name(device))}.json"
    write_json(path, {"benchmark": benchmark, "environment": environment(device), **values})
    return path
