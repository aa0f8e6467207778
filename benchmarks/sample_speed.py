"""How fast images are sampled: the published algorithm ("naive") against the inference plan ("optimised").

    python benchmarks/sample_speed.py
    python benchmarks/sample_speed.py --models L H --batch-sizes 1 32 --dtypes bfloat16

Before anything is timed, both must give the same latents; otherwise the exit code is 1. README.md explains the numbers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from flops import engine_flops, published_flops
from models import load_model
from record import save_results
from tables import table
from timing import seconds_of, summary, time_alternating
from torch import Tensor

from flowar import FlowAR
from flowar.hub import shipped_models
from flowar.precision import default_device, parse_dtype

FLOAT32_TOLERANCE = 1e-4  # largest difference, relative to the standard deviation
ERROR_RATIO = 1.5  # in low precision: of the optimised error to that of naive autocast, both against naive float32
CASE = ("model", "batch", "dtype", "variant")
NUMBERS = ("latency s", "p20", "p80", "images/s", "speed-up", "TFLOP/image", "TFLOP/s")


def main() -> None:
    options = parse_arguments()
    device = default_device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    results = []
    for name in options.models:
        model = load_model(name, device)
        for dtype_name in options.dtypes:
            for batch in options.batch_sizes:
                results.append(measure(name, model, batch, dtype_name, options, device))
                print(f"{name}, batch {batch}, {dtype_name}: {results[-1]['agreement']}", file=sys.stderr)
    print(table((*CASE, *NUMBERS), [row for result in results for row in table_rows(result)]))
    settings = {key: value for key, value in vars(options).items() if key != "output"}
    print(save_results("sample_speed", device, options.output, {"settings": settings, "results": results}))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed of sampling, naive and optimised, after a check of equality.")
    models = [*(folder.name for folder in shipped_models()), "S"]
    parser.add_argument("--models", nargs="+", default=models, help="presets (S B L H), folders or shipped names")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1])
    parser.add_argument("--dtypes", nargs="+", default=["float32"], help="float32 bfloat16 float16")
    parser.add_argument("--steps", type=int, help="per scale; the model's own preset if left out")
    parser.add_argument("--guidance-scale", type=float, help="the model's own preset if left out")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--seconds", type=float, default=10, help="to measure each case for; two runs at least")
    parser.add_argument("--output", type=Path, help="JSON file; by default in benchmarks/results")
    return parser.parse_args()


def measure(
    name: str, model: FlowAR, batch: int, dtype_name: str, options: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """Check that the variants agree, then time them."""
    dtype = parse_dtype(dtype_name)
    labels = torch.arange(batch) % model.config.num_classes
    schedule = model.schedule(options.steps, options.guidance_scale)

    def run(naive: bool, dtype: torch.dtype | None = dtype) -> Tensor:
        return model.sample(labels, schedule=schedule, seed=0, naive=naive, dtype=dtype, progress=False)

    runs: dict[str, Callable[[], Tensor]] = {"naive": lambda: run(True), "optimised": lambda: run(False)}
    counts = {"naive": published_flops, "optimised": engine_flops}
    flops = {variant: count(model.config, schedule, batch) for variant, count in counts.items()}
    latents = {variant: sample() for variant, sample in runs.items()}
    truth = latents["naive"] if dtype == torch.float32 else run(True, torch.float32)
    agreement = check(latents["naive"], latents["optimised"], truth, dtype == torch.float32)
    # The check has run both variants once; a GPU wants a little more to reach its clock rate.
    times = time_alternating(runs, device, options.seconds, warmup=1.0 if device.type == "cuda" else 0.0)
    return {
        "model": name,
        "batch": batch,
        "dtype": dtype_name,
        "evaluations": len(schedule.times) - 1,
        "guidance_scale": schedule.guidance_scale,
        "agreement": agreement,
        "matmul_tflops": matmul_rate(device, dtype or torch.float32),
        "variants": {
            variant: summary(seconds) | {"seconds": seconds, "tflop_per_image": flops[variant] / batch / 1e12}
            for variant, seconds in times.items()
        },
        "speed_up": summary(times["naive"])["median"] / summary(times["optimised"])["median"],
    }


def check(naive: Tensor, optimised: Tensor, truth: Tensor, exact: bool) -> str:
    """How well the latents agree; ends the program if not well enough.

    `exact` asks for the same numbers to float32 rounding. In low precision both have rounded differently, so each is
    compared with `truth`, the naive sampler in float32.
    """
    if not bool(torch.isfinite(optimised).all()):
        sys.exit("latents: expected finite numbers")
    if exact:
        error = float((optimised - naive).abs().max() / naive.std())
        verdict = f"largest difference {error:.1e} of the standard deviation"
        if error > FLOAT32_TOLERANCE:
            sys.exit(f"latents of the optimised sampler: {verdict}, expected at most {FLOAT32_TOLERANCE}")
        return verdict
    errors = [float((latents - truth).square().mean().sqrt() / truth.std()) for latents in (naive, optimised)]
    verdict = f"error {errors[1]:.1e} against {errors[0]:.1e} of naive autocast"
    if errors[1] > ERROR_RATIO * errors[0]:
        sys.exit(f"latents of the optimised sampler: {verdict}, expected at most {ERROR_RATIO} times that")
    return verdict


def matmul_rate(device: torch.device, dtype: torch.dtype, size: int = 2048) -> float:
    """TFLOP/s of one large matrix product: the ceiling of this machine."""
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    times = [seconds_of(lambda: a @ b, device) for _ in range(8)]
    return 2 * size**3 / min(times[2:]) / 1e12


def table_rows(result: dict[str, Any]) -> list[list[str]]:
    """One row a variant, and one for the matrix rate."""
    case = [result["model"], str(result["batch"]), result["dtype"]]
    rows = []
    for variant, values in result["variants"].items():
        seconds, flops = values["median"], values["tflop_per_image"]
        rate, ratio = result["batch"] / seconds, result["speed_up"] if variant == "optimised" else 1.0
        numbers = [f"{seconds:.3f}", f"{values['p20']:.3f}", f"{values['p80']:.3f}", f"{rate:.3g}", f"{ratio:.2f}"]
        rows.append([*case, variant, *numbers, f"{flops:.4g}", f"{flops * rate:.3g}"])
    rows.append([*case, "one large matmul", "", "", "", "", "", "", f"{result['matmul_tflops']:.3g}"])
    return rows


if __name__ == "__main__":
    main()
