"""All that a GPU can show, by one command on a machine with CUDA torch and nvcc: build, tests, sanitizer, benchmarks.

    python -m benchmarks.gpu_report
    python -m benchmarks.gpu_report --output FOLDER --budget-seconds 540
    python -m benchmarks.gpu_report --steps build load sample_speed

Needs no installation of the package, no network, and of its dependencies neither jsonargparse nor diffusers. First the
libraries are built, and loaded: every op has its kernels. Each step has a time of its own; what fails or takes longer
is recorded, and the next goes on. Writes `<gpu>.json` and `<gpu>.md` after every step, prints a short table last; with
`--steps`, the other steps stay in these files as they were. Exit code 1 if a test failed, 2 without a GPU. README.md
explains the numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from steps import Outcome, Step, run_steps
from tables import markdown, slug, table
from training_rows import ATTENTION_HEADER, TRAINING_HEADER, attention_rows, training_rows

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
# Everything that runs on a GPU: its ids or the name of its file say so.
GPU_TESTS = ("tests/ops", "tests/test_gpu.py", "-k", "cuda or test_gpu")
# One dtype of every op suffices to find an access out of bounds or a race; under the tools a test takes seconds.
SANITIZED_TESTS = ("tests/ops", "-k", "cuda and bfloat16 and not compile and not opcheck", "--maxfail", "3")
SANITIZER_REFUSAL = "Device not supported|terminated before first instrumented API call"
# The steps that leave a file of results.
BENCHMARKS = ("ops_speed", "sample_speed", "few_steps", "training_speed", "attention_speed", "ladder", "gemm_speed")
FEW_STEPS = ("--schedules", "1-step", "2-step", "4-step")
STEP_HEADER = ("step", "result", "s", "reason")
OPS_HEADER = ("op", "call", "rows", "pass", "us", "GB/s", "of copy", "x eager", "x compile")
PRODUCT_HEADER = ("product", "in", "out", "rows", "way", "us", "TFLOP/s", "GB/s", "x first")
SAMPLE_HEADER = ("model", "batch", "dtype", "variant", "p50 ms", "p99 ms", "images/s", "x naive", "TFLOP/s", "MiB")


def main() -> None:
    options = parse_arguments()
    if not torch.cuda.is_available():
        print(f"gpu_report: expected a GPU that torch can use, found none (torch {torch.__version__})", file=sys.stderr)
        sys.exit(2)
    gpu = torch.cuda.get_device_name()
    capability = ".".join(map(str, torch.cuda.get_device_capability()))
    with tempfile.TemporaryDirectory() as scratch:
        report = Report(gpu, options.output, Path(scratch), keep=bool(options.steps))
        program = [step for step in steps(capability, Path(scratch)) if step.name in (options.steps or step.name)]
        for outcome in run_steps(program, options.budget_seconds, ROOT, log):
            report.add(outcome)
    print(report.short())
    print(report.path.with_suffix(".md"))
    sys.exit(1 if report.tests_failed() else 0)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Build, test and measure everything that needs a GPU.")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder; by default benchmarks/results")
    parser.add_argument("--budget-seconds", type=float, default=540, help="for all steps together")
    names = [step.name for step in steps("", Path())]
    parser.add_argument("--steps", nargs="+", choices=names, metavar="STEP", help=f"some of {', '.join(names)}")
    return parser.parse_args()


def log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def steps(capability: str, scratch: Path) -> list[Step]:
    """What is run, in this order, for a GPU of this compute capability."""
    python = sys.executable
    source = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}
    build = {"FLOWAR_BUILD_CUDA": "1", "TORCH_CUDA_ARCH_LIST": capability}
    pytest = (python, "-m", "pytest", "-p", "no:cacheprovider")

    def benchmark(name: str, script: str, seconds: float, *options: str) -> Step:
        command = (python, f"benchmarks/{script}.py", *options, "--output", str(scratch / f"{name}.json"))
        return Step(name, command, seconds, environment=source)

    sampling = ("--dtypes", "bfloat16", "--batch-sizes", "1", "64", "--seconds")
    return [
        Step("build", (python, "setup.py", "build_ext", "--inplace"), 90, is_test=True, environment=build),
        Step("load", (python, "tests/registered.py"), 10, is_test=True, environment=source),
        Step("tests", (*pytest, "-n", "8", *GPU_TESTS), 80, is_test=True, environment=source),
        sanitizer("memcheck", (*pytest, *SANITIZED_TESTS), source),
        sanitizer("racecheck", (*pytest, *SANITIZED_TESTS), source),
        benchmark("ops_speed", "ops_speed", 50, "--seconds", "0.15"),
        benchmark("sample_speed", "sample_speed", 65, "--models", "L", "S", "H", *sampling, "1"),
        benchmark("few_steps", "sample_speed", 30, "--models", "L", "H", *FEW_STEPS, *sampling, "0.5"),
        benchmark("training_speed", "training_speed", 50, "--models", "L", "S", "--compile", "naive", "--seconds", "1"),
        benchmark("attention_speed", "attention_speed", 20, "--seconds", "0.3"),
        benchmark("ladder", "sample_speed", 45, "--models", "L", *sampling, "0.3", "--ladder", "--details"),
        benchmark("gemm_speed", "gemm_speed", 10, "--seconds", "0.02"),
    ]


def sanitizer(tool: str, command: Sequence[str], source: Mapping[str, str]) -> Step:
    """The tests under one tool of compute-sanitizer, which looks at the kernels of this package alone."""
    program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    options = ("--tool", tool, "--error-exitcode", "99", "--report-api-errors", "no", "--kernel-name", "kns=flowar")
    # An access out of bounds must not end in a block that torch merely keeps for later.
    environment = {**source, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    return Step(
        tool,
        (program or "compute-sanitizer", *options, *command),
        45,
        is_test=True,
        environment=environment,
        missing="" if program else "compute-sanitizer is not installed",
        refusal=SANITIZER_REFUSAL,
    )


class Report:
    """The files `<gpu>.json` and `<gpu>.md` in `folder`, written again after every step."""

    def __init__(self, gpu: str, folder: Path, scratch: Path, keep: bool = False) -> None:
        """keep: go on from the files that are there."""
        self.path, self.scratch = folder / f"{slug(gpu)}.json", scratch
        versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "python": sys.version.split()[0]}
        before = json.loads(self.path.read_text()) if keep and self.path.exists() else {}
        self.values: dict[str, Any] = {"steps": []} | before | {"gpu": gpu, **versions}

    def add(self, outcome: Outcome) -> None:
        """Record a step with the results it has left, finished or not."""
        others = [step for step in self.values["steps"] if step["name"] != outcome.name]
        self.values["steps"] = [*others, outcome.to_dict()]
        results = self.scratch / f"{outcome.name}.json"
        if results.exists():
            self.values[outcome.name] = json.loads(results.read_text())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.values, indent=1) + "\n")
        self.path.with_suffix(".md").write_text(self.page())

    def tests_failed(self) -> bool:
        return any(step["is_test"] and step["status"] in ("failed", "timed out") for step in self.values["steps"])

    def short(self) -> str:
        """Steps, and what the benchmarks have found of whole images."""
        parts = [table(STEP_HEADER, self._steps())]
        if samples := self._samples("sample_speed"):
            parts.append(table(SAMPLE_HEADER, samples))
        return "\n\n".join(parts)

    def page(self) -> str:
        """Everything in tables, and the last words of what did not pass."""
        versions = ", ".join(f"{key} {self.values[key]}" for key in ("torch", "cuda", "python"))
        measured = next((self.values[name] for name in BENCHMARKS if name in self.values), None)
        commit = f", commit {measured['environment']['commit']}" if measured else ""
        parts = [f"# {self.values['gpu']}", f"{versions}{commit}. What the columns are: [README](../README.md)."]
        parts += ["## Steps", markdown(STEP_HEADER, self._steps())]
        for name, title in (
            ("sample_speed", "Sampling"),
            ("few_steps", "Sampling by students"),
            ("ladder", "The ladder, FlowAR-L"),
        ):
            if rows := self._samples(name):
                parts += [f"## {title}", markdown(SAMPLE_HEADER, rows), *self._asides(name)]
        for name, title, header, rows_of in (
            ("training_speed", "Training", TRAINING_HEADER, training_rows),
            ("attention_speed", "Attention over all scales", ATTENTION_HEADER, attention_rows),
        ):
            if rows := [row for result in self.values.get(name, {}).get("results", []) for row in rows_of(result)]:
                parts += [f"## {title}", markdown(header, rows), *self._asides(name)]
        if rows := self._ops():
            copy = f"Copy: {self.values['ops_speed']['copy_gb_s']:.0f} GB/s."
            parts += ["## Ops", copy, markdown(OPS_HEADER, rows), *self._host(), *self._asides("ops_speed")]
        if products := self.values.get("gemm_speed", {}).get("results"):
            parts += ["## Matrix products", markdown(PRODUCT_HEADER, [product_row(each) for each in products])]
        for step in self.values["steps"]:
            if step["status"] in ("failed", "timed out"):
                parts += [f"## {step['name']}: {step['status']}", f"```\n{step['output']}\n```"]
        return "\n\n".join(parts) + "\n"

    def _steps(self) -> list[list[str]]:
        steps = self.values["steps"]
        return [[step["name"], step["status"], f"{step['seconds']:.0f}", step["reason"]] for step in steps]

    def _samples(self, name: str) -> list[list[str]]:
        rows = []
        for result in self.values.get(name, {}).get("results", []):
            case = [result["model"], str(result["batch"]), result["dtype"]]
            for variant, values in result["variants"].items():
                if "median" in values:  # otherwise the time was over before it was measured
                    rows.append([*case, variant, *sample_numbers(result["batch"], values)])
            rows.append([*case, "one large matmul", "", "", "", "", f"{result['matmul_tflops']:.0f}", ""])
        return rows

    def _asides(self, name: str) -> list[str]:
        """What was wrong, skipped or left out; stages, scales and launches."""
        values = self.values.get(name, {})
        lines = [f"- skipped: {reason}" for reason in values.get("skipped", [])]
        lines += [f"- left out for want of time: {title}" for title in values.get("left_out", [])]
        for result in values.get("results", []):
            if "variants" not in result:  # one way of attention, which has no more to say
                continue
            case = f"{result['model']}, batch {result['batch']}"
            lines += [f"- {case}: WRONG {variant}: {reason}" for variant, reason in result["wrong"].items()]
            lines += [f"- {case}: skipped {variant}: {reason}" for variant, reason in result["skipped"].items()]
            for variant, measured in result["variants"].items():
                lines += [f"- {case}, {variant}: {warning}" for warning in measured.get("warnings", [])]
            for variant, details in result["details"].items():
                lines += [f"- {case}, {variant}: {detail(key, value)}" for key, value in details.items()]
        return ["\n".join(lines)] if lines else []

    def _ops(self) -> list[list[str]]:
        return [ops_row(call) for call in self.values.get("ops_speed", {}).get("calls", [])]

    def _host(self) -> list[str]:
        """Host time of a call of each op; nothing if that was not reached."""
        rows = [list(host.values()) for host in self.values["ops_speed"]["host"]]
        return [markdown(("op", "call", "host us", "eager, host us"), rows)] if rows else []


def sample_numbers(batch: int, values: Mapping[str, Any]) -> list[str]:
    """Of one variant, as SAMPLE_HEADER names them."""
    rate = batch / values["median"]
    ratio = "" if values["speed_up"] is None else f"{values['speed_up']:.2f}"
    memory = "" if values["memory_mib"] is None else f"{values['memory_mib']:.0f}"
    times = [f"{1e3 * values['median']:.4g}", f"{1e3 * values['p99']:.4g}"]
    return [*times, f"{rate:.3g}", ratio, f"{values['tflop_per_image'] * rate:.0f}", memory]


def ops_row(call: Mapping[str, Any]) -> list[str]:
    """Of one op, as OPS_HEADER names them."""
    ours = call["variants"]["flowar"]["median"]
    others = [call["variants"].get(name) for name in ("eager", "compile")]
    ratios = ["" if other is None else f"{other['median'] / ours:.2f}" for other in others]
    large = call["of_copy"] is not None
    rates = [f"{call['gb_s']:.0f}", f"{100 * call['of_copy']:.0f} %"] if large else ["", ""]
    return [call["op"], call["call"], str(call["rows"]), call["pass"], f"{1e6 * ours:.1f}", *rates, *ratios]


def product_row(product: Mapping[str, Any]) -> list[str]:
    """Of one matrix product in one way, as PRODUCT_HEADER names them."""
    numbers = [f"{1e6 * product['seconds']:.1f}", f"{product['tflops']:.3g}", f"{product['gb_s']:.0f}"]
    sizes = [str(product[key]) for key in ("in", "out", "rows")]
    return [product["product"], *sizes, product["way"], *numbers, f"{product['of_first']:.2f}"]


def detail(key: str, value: Any) -> str:
    """Milliseconds of every scale, or counts (on a CPU milliseconds) by name."""
    if isinstance(value, Mapping):
        return ", ".join(f"{count:.6g} {name}" for name, count in value.items())
    return f"{key.removesuffix('_ms')} of each scale: {', '.join(f'{each:.2f}' for each in value)} ms"


if __name__ == "__main__":
    main()
