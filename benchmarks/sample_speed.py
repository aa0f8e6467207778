"""How fast images are sampled: the published algorithm ("naive") against the inference plan ("engine").

    python benchmarks/sample_speed.py
    python benchmarks/sample_speed.py --models L H --batch-sizes 1 32 --dtypes bfloat16
    python benchmarks/sample_speed.py --models L --batch-sizes 64 --ladder --details
    python benchmarks/sample_speed.py --models L --schedules 1-step 2-step 4-step

What does not give the latents of the published algorithm is not timed, and the exit code is 1. README.md explains the
numbers.
"""

from __future__ import annotations

import argparse
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any

import samplers
import torch
from agreement import Disagreement, Expected
from cases import TitledCase, add_common_arguments, run_cases
from details import count_launches, kinds_of_work, stage_times
from memory import PeakMemory
from models import load_model
from record import dtype_name
from samplers import COMPILED, ENGINE, NAIVE, NO_GRAPHS, Sampler
from timing import seconds_of, summary, time_alternating
from torch import Tensor

from flowar import FlowAR, Schedule
from flowar.engine.packed import default_savings
from flowar.errors import first_line
from flowar.networks.flops import engine_flops, published_flops
from flowar.sampling.noise import image_seeds
from flowar.sampling.presets import JUMP_SCHEDULES
from flowar.storage.hub import shipped_models
from flowar.system.precision import parse_dtype

MATMUL_SIZE = {"cuda": 8192, "cpu": 2048}
Setting = tuple[FlowAR, Schedule, torch.dtype]
CASE = ("model", "batch", "dtype", "variant")
NUMBERS = ("p50 ms", "p20", "p80", "p99", "images/s", "x naive", "TFLOP/s", "MiB")


def main() -> None:
    run_cases("sample_speed", parse_arguments(), cases, (*CASE, *NUMBERS), table_rows)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed of sampling, after a check of equality.")
    parser.add_argument("--models", nargs="+", help="presets (S B L H), folders or shipped names")
    parser.add_argument("--batch-sizes", type=int, nargs="+")
    parser.add_argument("--dtypes", nargs="+", help="float32 bfloat16 float16")
    parser.add_argument("--steps", type=int, help="per scale; the model's own preset if left out")
    parser.add_argument(
        "--schedules", nargs="+", default=[None], help="names; those of few steps make a preset a student"
    )
    parser.add_argument("--guidance-scale", type=float, help="the model's own preset if left out")
    parser.add_argument(
        "--ladder", action="store_true", help="also torch.compile, and each saving switched off in turn"
    )
    parser.add_argument("--details", action="store_true", help="also milliseconds of stages and scales, and launches")
    add_common_arguments(parser)
    return parser.parse_args()


def cases(options: argparse.Namespace, device: torch.device) -> Iterator[TitledCase]:
    """Every model in every dtype at every batch size; by default the presets on a GPU, and little on a CPU."""
    gpu = device.type == "cuda"
    shipped = [folder.name for folder in shipped_models()]
    for name in options.models or (["L", "S", "H"] if gpu else [*shipped, "S"]):
        model = load_model(name, device, student=any(each in JUMP_SCHEDULES for each in options.schedules))
        chosen = product(options.schedules, options.dtypes or ["bfloat16" if gpu else "float32"])
        for base, dtype in chosen:
            schedule = model.schedule(options.steps, options.guidance_scale, base=base)
            setting = (model, schedule, parse_dtype(dtype) or torch.float32)
            expected = Expected.of(*setting)
            label = f"{name} {base}" if base else name
            for batch in options.batch_sizes or ([1, 8, 64, 256] if gpu else [1]):
                title = f"{label}, batch {batch}, {dtype_name(setting[2])}"
                yield title, partial(Case, label, setting, expected, batch, options, device)


class Case:
    """One model, dtype and batch size: `values` are its results so far."""

    def __init__(
        self,
        name: str,
        setting: Setting,
        expected: Expected,
        batch: int,
        options: argparse.Namespace,
        device: torch.device,
    ) -> None:
        self.setting, self.expected, self.batch, self.options, self.device = setting, expected, batch, options, device
        model, schedule, dtype = setting
        self.values: dict[str, Any] = {
            "model": name,
            "batch": batch,
            "dtype": dtype_name(dtype),
            "evaluations": schedule.num_evaluations(len(model.config.grids)),
            "guidance_scale": schedule.guidance_scale,
            "matmul_tflops": matmul_rate(device, dtype),
            "variants": {},
            "wrong": {},
            "skipped": {},
            "details": {},
        }

    def measure(self) -> Iterator[str]:
        """Fill `values`; a word after every part."""
        makers = {NAIVE: lambda: samplers.naive(*self.setting), ENGINE: lambda: samplers.engine(*self.setting)}
        if self.options.ladder:
            makers |= samplers.without_each_saving(*self.setting)
        runs = self._first_runs(makers)
        self._time(runs)
        for name, values in self.values["variants"].items():
            yield "; ".join([f"{name}: {1e3 * values['median']:.4g} ms", values["agreement"], *values["warnings"]])
        for name, reason in self.values["wrong"].items():
            yield f"WRONG {name}: {reason}"
        baseline = {name: run for name, run in runs.items() if name == NAIVE}
        if self.options.details:
            self._look_inside(baseline)
            yield "stages and scales are recorded"
            for name, looked_at in self.values["details"].items():
                if "kinds_ms" in looked_at:
                    yield f"{name}: {shares(looked_at['kinds_ms'])}"
        if self.options.ladder:
            compiled = self._first_runs({COMPILED: lambda: samplers.compiled(*self.setting)}, Exception)
            self._time(compiled | baseline)
            yield f"{COMPILED}: {self.values['skipped'].get(COMPILED, 'measured')}"

    def _first_runs(
        self, makers: Mapping[str, Callable[[], Sampler]], skippable: type[Exception] = torch.OutOfMemoryError
    ) -> dict[str, Callable[[], Tensor]]:
        """Make and check every variant; those that agree, ready to be timed."""
        model, schedule, _ = self.setting
        runs: dict[str, Callable[[], Tensor]] = {}
        for name, make in makers.items():
            memory = PeakMemory(self.device)
            try:
                with warnings.catch_warnings(record=True) as raised:
                    warnings.simplefilter("always", RuntimeWarning)
                    sampler = make()
                    latents = sampler(self.batch)
                agreement = self.expected.check(latents)
            except Disagreement as reason:
                self.values["wrong"][name] = str(reason)
            except skippable as error:
                self.values["skipped"][name] = f"{type(error).__name__}: {first_line(error)}"
            else:
                flops = published_flops if name in (NAIVE, COMPILED) else engine_flops
                self.values["variants"][name] = {
                    "agreement": agreement,
                    "memory_mib": memory.mebibytes(),
                    "warnings": [str(each.message) for each in raised if each.category is RuntimeWarning],
                    "tflop_per_image": flops(model.config, schedule, self.batch) / self.batch / 1e12,
                }
                runs[name] = partial(sampler, self.batch)
        return runs

    def _time(self, runs: Mapping[str, Callable[[], Tensor]]) -> None:
        """Record times of those that have none yet, and their ratio to the naive sampler among `runs`."""
        times = time_alternating(runs, self.device, self.options.seconds, warmup=0)  # they have run already
        medians = {name: summary(seconds)["median"] for name, seconds in times.items()}
        for name, seconds in times.items():
            values = self.values["variants"][name]
            if "seconds" not in values:
                ratio = medians[NAIVE] / medians[name] if NAIVE in medians else None
                values |= summary(seconds) | {"seconds": seconds, "speed_up": ratio}

    def _look_inside(self, baseline: Mapping[str, Callable[[], Tensor]]) -> None:
        """Milliseconds of stages and scales; on a GPU, scales under CUDA graphs and launches too."""
        model, schedule, dtype = self.setting
        labels = samplers.labels_of(model, self.batch).to(self.device)
        seeds = image_seeds(0, self.batch).to(self.device)
        every, on_gpu = default_savings(self.device), self.device.type == "cuda"
        savings = {ENGINE: every} | ({NO_GRAPHS: dataclasses.replace(every, graphs=False)} if on_gpu else {})
        plans = {name: samplers.inference_plan(samplers.twin(model), dtype, each) for name, each in savings.items()}
        for name, plan in plans.items():
            stages = stage_times(partial(plan.sample, labels, schedule, seeds), self.device)
            if on_gpu and plan.networks.savings.graphs:  # its callbacks tell whole scales alone
                stages = {"scale_ms": [sum(parts) for parts in zip(*stages.values(), strict=True)]}
            self.values["details"][name] = stages
        sample = {name: samplers.plan_sampler(model, schedule, plan) for name, plan in plans.items()}
        looked_at = {name: partial(sampler, self.batch) for name, sampler in sample.items()}
        for name, run in (looked_at | dict(baseline)).items():
            work = {"launches": count_launches(run, self.device)} if on_gpu else {"kinds_ms": kinds_of_work(run)}
            self.values["details"].setdefault(name, {}).update(work)


def shares(parts: Mapping[str, float]) -> str:
    """Each part of the whole, in percent."""
    whole = sum(parts.values())
    return ", ".join(f"{name} {100 * part / whole:.1f} %" for name, part in parts.items())


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """TFLOP/s of one large matrix product: the ceiling of this machine."""
    size = MATMUL_SIZE[device.type]
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    times = [seconds_of(lambda: a @ b, device) for _ in range(8)]
    return 2 * size**3 / min(times[2:]) / 1e12


def table_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """One row a variant, and one for the matrix rate."""
    case = [result["model"], str(result["batch"]), result["dtype"]]
    rows = []
    for variant, values in result["variants"].items():
        rate = result["batch"] / values["median"]
        times = [f"{1e3 * values[key]:.4g}" for key in ("median", "p20", "p80", "p99")]
        ratio = "" if values["speed_up"] is None else f"{values['speed_up']:.2f}"
        memory = "" if values["memory_mib"] is None else f"{values['memory_mib']:.0f}"
        numbers = [*times, f"{rate:.3g}", ratio, f"{values['tflop_per_image'] * rate:.3g}", memory]
        rows.append([*case, variant, *numbers])
    rows.append([*case, "one large matmul", "", "", "", "", "", "", f"{result['matmul_tflops']:.3g}", ""])
    return rows


if __name__ == "__main__":
    main()
