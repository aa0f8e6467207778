"""How fast a training step is, and what memory it takes: as published ("naive") against this package.

    python benchmarks/training_speed.py
    python benchmarks/training_speed.py --models L --batch-sizes 32 --compile naive flowar
    python benchmarks/training_speed.py --models S --batch-sizes 4 --details

A step is forward, backward, clipping, AdamW and the averaged weights. What does not give the published loss and
gradient is not timed, and the exit code is 1. README.md explains the numbers.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from agreement import Disagreement
from cases import TitledCase, add_common_arguments, run_cases
from details import kinds_of_work
from gradients import Expected
from models import load_model
from timing import summary, time_alternating
from training_rows import TRAINING_HEADER, training_rows
from training_variants import COMPILED, FLOWAR, NAIVE, Step, Variant, random_batch, saved_mib, variants

from flowar.config import PRESETS
from flowar.errors import first_line
from flowar.networks.flops import training_flops
from flowar.storage.hub import shipped_models
from flowar.system.hardware import peak_flops, peak_memory_mib
from flowar.system.precision import PRECISIONS, Precision, matmul_precision

BATCH_SIZES = {"S": 128, "B": 64, "L": 32, "H": 8}  # on a GPU


def main() -> None:
    run_cases("training_speed", parse_arguments(), cases, TRAINING_HEADER, training_rows)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed and memory of training steps, after a check of equality.")
    parser.add_argument("--models", nargs="+", help="presets (S B L H), folders or shipped names")
    parser.add_argument("--batch-sizes", type=int, nargs="+")
    parser.add_argument("--precisions", nargs="+", choices=list(PRECISIONS), help="of products")
    parser.add_argument(
        "--compile",
        nargs="+",
        choices=[NAIVE, FLOWAR],
        default=[],
        help="also under torch.compile, in the last precision",
    )
    parser.add_argument("--details", action="store_true", help="on a CPU also milliseconds by kind of work")
    add_common_arguments(parser)
    return parser.parse_args()


def cases(options: argparse.Namespace, device: torch.device) -> Iterator[TitledCase]:
    """Models with batch sizes: the presets on a GPU, little on a CPU."""
    gpu = device.type == "cuda"
    models = options.models or (["L", "S", "H"] if gpu else [*(folder.name for folder in shipped_models()), "S"])
    for name in models:
        default = BATCH_SIZES.get(name.upper(), 64) if gpu else (2 if name.upper() in PRESETS else 64)
        for batch in options.batch_sizes or [default]:
            yield f"{name}, batch {batch}", partial(Case, name, batch, options, device)


class Case:
    """One model at one batch size: `values` are its results so far."""

    def __init__(self, name: str, batch: int, options: argparse.Namespace, device: torch.device) -> None:
        self.options, self.device = options, device
        self.precisions = options.precisions or (["tf32", "bfloat16"] if device.type == "cuda" else ["float32"])
        self.model = load_model(name, device)
        self.batch = random_batch(self.model, batch, device)
        self.values: dict[str, Any] = {
            "model": name,
            "batch": batch,
            "dropout": self.model.config.dropout,
            "tflop": training_flops(self.model.config, batch) / 1e12,
            "peak_tflops": {name: peak_tflops(device, PRECISIONS[name]) for name in self.precisions},
            "variants": {},
            "wrong": {},
            "skipped": {},
            "details": {},
        }

    def measure(self) -> Iterator[str]:
        """Fill `values`; a word after every part."""
        runs = self._first_steps(self._agreeing())
        times = time_alternating(runs, self.device, self.options.seconds, warmup=0)
        baseline = next((seconds for name, seconds in times.items() if name.startswith(NAIVE)), [])
        for name, seconds in times.items():
            values = self.values["variants"][name]
            ratios = [naive / own for naive, own in zip(baseline, seconds, strict=False)]  # of the same turn
            speed_up = statistics.median(ratios) if ratios else None
            values |= summary(seconds) | {"seconds": seconds, "speed_up": speed_up}
            yield f"{name}: {1e3 * values['median']:.4g} ms; {values['agreement']}"
        for what in ("wrong", "skipped"):
            for name, reason in self.values[what].items():
                yield f"{what.upper()} {name}: {reason}"
        if self.options.details and self.device.type == "cpu":
            for name, run in runs.items():
                self.values["details"][name] = {"kinds_ms": kinds_of_work(run)}
                yield f"{name}: kinds of work are recorded"

    def _agreeing(self) -> dict[str, Variant]:
        """The variants whose loss and gradient are right."""
        expected, agreeing = Expected(self.model, self.batch), {}
        for name, make in variants(self.model, self.precisions, self.options.compile).items():
            try:
                variant = make()
                self.values["variants"][name] = {"agreement": expected.check(variant)}
                agreeing[name] = variant
            except Disagreement as reason:
                self.values["wrong"][name] = str(reason)
            except skippable(name) as error:
                self._skip(name, error)
        return agreeing

    def _first_steps(self, agreeing: dict[str, Variant]) -> dict[str, Callable[[], object]]:
        """Their steps, each of which has run; and their memory: on a GPU the most that is in use during a step, on a
        CPU what forward keeps for backward."""
        step, runs = Step(self.model.train()), {}
        for name, variant in agreeing.items():
            run = partial(step.run, variant, self.batch)
            try:
                run()
                self.values["variants"][name]["memory_mib"] = self._memory_mib(variant, run)
                runs[name] = run
            except skippable(name) as error:
                self._skip(name, error)
        return runs

    def _memory_mib(self, variant: Variant, run: Callable[[], object]) -> float:
        if self.device.type != "cuda":
            return saved_mib(variant, self.batch, self.model.parameters())
        torch.cuda.reset_peak_memory_stats(self.device)
        run()
        return peak_memory_mib(self.device)

    def _skip(self, name: str, error: Exception) -> None:
        self.values["skipped"][name] = f"{type(error).__name__}: {first_line(error)}"


def peak_tflops(device: torch.device, precision: Precision) -> float | None:
    """As published, where it is known."""
    with matmul_precision(precision):
        peak = peak_flops(device, precision.dtype)
    return None if peak is None else peak / 1e12


def skippable(name: str) -> type[Exception]:
    """What may go wrong with a variant without being a mistake: memory, and everything in a compiler."""
    return Exception if name.endswith(COMPILED) else torch.OutOfMemoryError


if __name__ == "__main__":
    main()
