"""The most memory that sampling one image takes on a CPU, from loading the weights on, in a process of its own.

    python benchmarks/peak_memory.py --models S L --dtypes bfloat16 float32

README.md explains the numbers. Weights have no meaning; two steps a scale show the peak as well as all of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from models import load_model
from record import save_results
from tables import table

from flowar import FlowAR
from flowar.system.hardware import MIB, peak_resident_mib
from flowar.system.precision import parse_dtype

HEADER = ("model", "dtype", "weights MiB", "before MiB", "loaded MiB", "prepacked MiB", "sampled MiB", "of weights")


def main() -> None:
    parser = argparse.ArgumentParser(description="Peak memory of loading and sampling on a CPU.")
    parser.add_argument("--models", nargs="+", default=["S", "L"], help="presets")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"], help="of weights and networks")
    parser.add_argument("--output", type=Path, help="JSON file of results; by default in benchmarks/results")
    parser.add_argument("--child", nargs=2, metavar=("FOLDER", "DTYPE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(peak(Path(options.child[0]), parse_dtype(options.child[1]) or torch.float32)))
        return
    results = [measure(model, dtype) for model in options.models for dtype in options.dtypes]
    print(table(HEADER, [row(result) for result in results]))
    print(save_results("peak_memory", torch.device("cpu"), options.output, {"results": results}))


def measure(model: str, dtype: str) -> dict[str, Any]:
    """Of one preset: its weights on disk in `dtype`, then a process that loads and samples."""
    with tempfile.TemporaryDirectory() as folder:
        load_model(model, torch.device("cpu")).save_pretrained(folder, parse_dtype(dtype))
        command = [sys.executable, __file__, "--child", folder, dtype]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {"model": model, "dtype": dtype} | json.loads(output)


def peak(folder: Path, dtype: torch.dtype) -> dict[str, float]:
    """MiB of the weights, and the most that this process has had resident after each stage."""
    stages = {"before": peak_resident_mib()}
    model = FlowAR.from_pretrained(folder, dtype=dtype)
    stages["weights"] = sum(parameter.nbytes for parameter in model.parameters()) / MIB
    stages["loaded"] = peak_resident_mib()
    model.prepack()
    stages["prepacked"] = peak_resident_mib()
    model.sample([1], num_inference_steps=3, dtype=dtype, progress=False)
    stages["sampled"] = peak_resident_mib()
    return stages


def row(result: dict[str, Any]) -> list[str]:
    sizes = [f"{result[key]:.0f}" for key in ("weights", "before", "loaded", "prepacked", "sampled")]
    return [result["model"], result["dtype"], *sizes, f"{result['sampled'] / result['weights']:.2f}"]


if __name__ == "__main__":
    main()
