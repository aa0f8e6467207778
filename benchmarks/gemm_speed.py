"""How fast the model's matrix products are, one by one, in the ways that there are to compute them.

    python benchmarks/gemm_speed.py
    python benchmarks/gemm_speed.py --model S --batch-sizes 1 4

Products of one step of the flow transformer, scale by scale: at batch 1 they have 2 to 512 rows, and a product of few
rows is bound by reading its weights. README.md explains the numbers.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from gpu_report import PRODUCT_HEADER, product_row
from record import dtype_name, save_results, settings_of
from tables import table
from timing import graph_times, summary, time_alternating
from torch import Tensor

from flowar.config import PRESETS, FlowARConfig
from flowar.engine.onednn_linear import PrepackedLinear, supported
from flowar.engine.rewrites import HIDDEN_MULTIPLE
from flowar.system.precision import default_device, parse_dtype

COLD_BYTES = {"cuda": 128 * 2**20, "cpu": 64 * 2**20}  # of weights in turns: more than a cache, as in a model
MOST_COPIES = 20
TOLERANCE = 16  # roundings of the dtype, of the largest value: sums of thousands of terms


@dataclass(frozen=True)
class Product:
    """x [rows, k] times a weight [n, k]."""

    name: str
    k: int
    n: int


def main() -> None:
    options = parse_arguments()
    device = default_device(options.device)
    dtype = parse_dtype(options.dtype) or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    config = FlowARConfig.preset(options.model)
    results = []
    for batch, tokens, product in itertools.product(options.batch_sizes, config.scale_lengths, products(config)):
        results += measure(product, 2 * batch * tokens, dtype, device, options.seconds)
    print(table(PRODUCT_HEADER, [product_row(result) for result in results]))
    settings = settings_of(options) | {"dtype": dtype_name(dtype)}
    print(save_results("gemm_speed", device, options.output, {"settings": settings, "results": results}))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed of the flow transformer's matrix products.")
    parser.add_argument("--model", choices=list(PRESETS), default="L", help="whose shapes")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1], help="images, with both halves of guidance")
    parser.add_argument("--dtype", help="float32 bfloat16 float16; by default bfloat16 on a GPU, float32 on a CPU")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=0.1, help="to measure each product for")
    parser.add_argument("--output", type=Path, help="JSON file; by default in benchmarks/results")
    return parser.parse_args()


def products(config: FlowARConfig) -> list[Product]:
    """Of one block at one step; GEGLU as the engine pads it."""
    width = config.flow_width
    hidden = -(-int(width * 8 / 3) // HIDDEN_MULTIPLE) * HIDDEN_MULTIPLE
    vectors = 6 if config.flow_block == "attn_mlp" else 3
    return [
        Product("q, k, v", width, 3 * width),
        Product("projection", width, width),
        Product("GEGLU in", width, 2 * hidden),
        Product("GEGLU out", hidden, width),
        Product("modulation", width, vectors * width),
    ]


def measure(
    product: Product, rows: int, dtype: torch.dtype, device: torch.device, seconds: float
) -> list[dict[str, Any]]:
    """One result a way, after a check that it computes the product."""
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, generator=generator).to(dtype)

    copies = min(MOST_COPIES, max(1, COLD_BYTES[device.type] // (product.n * product.k * dtype.itemsize)))
    x, bias = random(rows, product.k), random(product.n)
    weights = [random(product.n, product.k) / product.k**0.5 for _ in range(copies)]
    expected = F.linear(x.double(), weights[0].double(), bias.double())
    runs = {}
    for name, make in ways(device, dtype, product).items():
        calls = [make(weight, bias) for weight in weights]
        check(f"{product.name}, {rows} rows, {name}", calls[0](x), expected)
        runs[name] = in_turns(calls, x)
    with torch.inference_mode():
        clock = graph_times if device.type == "cuda" else time_alternating
        times = clock(runs, device, seconds, warmup=seconds / 4)
    medians = {name: summary(values)["median"] for name, values in times.items()}
    moved = dtype.itemsize * (product.n * product.k + rows * (product.n + product.k))
    return [
        {
            "product": product.name,
            "in": product.k,
            "out": product.n,
            "rows": rows,
            "way": name,
            "seconds": median,
            "tflops": 2 * rows * product.n * product.k / median / 1e12,
            "gb_s": moved / median / 1e9,
            "of_first": next(iter(medians.values())) / median,
        }
        for name, median in medians.items()
    ]


def in_turns(calls: list[Callable[[Tensor], Tensor]], x: Tensor) -> Callable[[], Tensor]:
    """Each time another weight, so that none waits in the cache."""
    endless = itertools.cycle(calls)
    return lambda: next(endless)(x)


def ways(
    device: torch.device, dtype: torch.dtype, product: Product
) -> dict[str, Callable[[Tensor, Tensor], Callable[[Tensor], Tensor]]]:
    """How a product can be computed: from its weight and bias to a function of x. The first is PyTorch's own choice."""

    def plain(weight: Tensor, bias: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda x: F.linear(x, weight, bias)

    def by_library(name: str) -> Callable[[Tensor, Tensor], Callable[[Tensor], Tensor]]:
        def make(weight: Tensor, bias: Tensor) -> Callable[[Tensor], Tensor]:
            def run(x: Tensor) -> Tensor:
                with blas_library(name):
                    return F.linear(x, weight, bias)

            return run

        return make

    def split(parts: int) -> Callable[[Tensor, Tensor], Callable[[Tensor], Tensor]]:
        return lambda weight, bias: lambda x: split_k(x, weight, bias, parts)

    def prepacked(weight: Tensor, bias: Tensor) -> Callable[[Tensor], Tensor]:
        return PrepackedLinear(weight, torch.nn.Parameter(bias, requires_grad=False))

    if device.type == "cuda":
        libraries = {name: by_library(name) for name in ("cublas", "cublaslt")}
        splits = {f"split-K {parts}": split(parts) for parts in (2, 4, 8) if product.k % parts == 0}
        return {"F.linear": plain, **libraries, **splits}
    return {"F.linear": plain} | ({"prepacked": prepacked} if supported(dtype) else {})


@contextmanager
def blas_library(name: str) -> Iterator[None]:
    """PyTorch's products by this library of CUDA's."""
    before = torch.backends.cuda.preferred_blas_library()
    torch.backends.cuda.preferred_blas_library(name)
    try:
        yield
    finally:
        torch.backends.cuda.preferred_blas_library(before)


def split_k(x: Tensor, weight: Tensor, bias: Tensor, parts: int) -> Tensor:
    """The product as a sum of `parts` products of shorter rows, which fill more of a GPU when there are few rows."""
    rows = x.view(len(x), parts, -1).transpose(0, 1)  # [parts, rows, k / parts]
    columns = weight.view(len(weight), parts, -1).permute(1, 2, 0)  # [parts, k / parts, n]
    wide = {"out_dtype": torch.float32} if x.is_cuda and x.dtype != torch.float32 else {}
    return (torch.bmm(rows, columns, **wide).sum(0) + bias).to(x.dtype)


def check(what: str, got: Tensor, expected: Tensor) -> None:
    """End the program if the result is wrong."""
    error = ((got.double() - expected).abs().max() / expected.abs().max()).item()
    if not error <= TOLERANCE * torch.finfo(got.dtype).eps:
        raise SystemExit(f"gemm_speed: {what}: expected the product, got one with an error of {error:.2g}")


if __name__ == "__main__":
    main()
