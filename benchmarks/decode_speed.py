"""How fast latents become images: the layouts and dtypes of a decoder, in turns; and the memory that takes.

    python benchmarks/decode_speed.py
    python benchmarks/decode_speed.py --tokenizers kl16 --latent-sizes 16 64 96 --batch-sizes 1

What does not give the images of plain float32 is not timed, and the exit code is 1. README.md explains the numbers.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from memory import PeakMemory
from record import device_of, dtype_name, save_results, settings_of
from tables import table
from timing import summary, time_alternating
from torch import Tensor

from flowar.storage.published import KL16_RECORD, KL16_SCALE
from flowar.system.hardware import resident_mib
from flowar.system.precision import native_bfloat16
from flowar.tokenizers.autoencoder import AutoencoderTokenizer, autoencoder_class
from flowar.tokenizers.base import Tokenizer
from flowar.tokenizers.loading import load_tokenizer

KL16 = "kl16"
KL16_WIDTHS = (128, 128, 256, 256, 512)
LAYOUTS = {"default layout": torch.contiguous_format, "channels last": torch.channels_last}
MINIMUM_DECIBELS = {torch.float32: 80, torch.bfloat16: 40}
HEADER = ("tokenizer", "latents", "batch", "variant", "p50 ms", "p20", "p80", "x first", "dB", "MiB")
Decode = Callable[[Tensor], Tensor]


def main() -> None:
    options = parse_arguments()
    device = device_of(options)
    settings = settings_of(options)
    results: list[dict[str, Any]] = []
    for name in options.tokenizers:
        tokenizer = load(name).to(device)
        variants = variants_of(tokenizer, device, options.bfloat16)
        for size, batch in product(options.latent_sizes or [16 if name == KL16 else 7], options.batch_sizes):
            latents = torch.randn(batch, tokenizer.channels, size, size, device=device)
            case = {"tokenizer": name, "latents": size, "batch": batch}
            results.append(case | {"variants": measure(variants, latents, options.seconds)})
    print(table(HEADER, [row for result in results for row in rows(result)]))
    print(save_results("decode_speed", device, options.output, {"settings": settings, "results": results}))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed of decoding, after a check of the images.")
    parser.add_argument("--tokenizers", nargs="+", default=["flowar-fashion", KL16], help="kl16, or a folder or name")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--latent-sizes", type=int, nargs="+", help="side of the latents; by default 16, or 7")
    parser.add_argument("--bfloat16", action="store_true", help="also where the device is slow at it")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="of the CPU; torch's own number if left out")
    parser.add_argument("--seconds", type=float, default=20, help="to measure each variant for")
    parser.add_argument("--output", type=Path, help="JSON file; by default in benchmarks/results")
    return parser.parse_args()


def load(name: str) -> Tokenizer:
    """A tokenizer by name; KL-16 with random weights."""
    if name != KL16:
        return load_tokenizer(name)
    torch.manual_seed(0)
    levels = len(KL16_WIDTHS)
    vae = autoencoder_class("AutoencoderKL")(
        latent_channels=KL16_RECORD["channels"],
        block_out_channels=KL16_WIDTHS,
        layers_per_block=2,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        scaling_factor=KL16_SCALE,
    )
    return AutoencoderTokenizer(vae)


def variants_of(tokenizer: Tokenizer, device: torch.device, force_bfloat16: bool) -> dict[str, tuple[Decode, int]]:
    """Ways to decode, plain float32 first, with the decibels that each must reach."""
    dtypes = [
        dtype for dtype in MINIMUM_DECIBELS if dtype == torch.float32 or force_bfloat16 or native_bfloat16(device)
    ]
    variants: dict[str, tuple[Decode, int]] = {}
    for (layout, memory_format), dtype in product(LAYOUTS.items(), dtypes):
        made: Any = copy.deepcopy(tokenizer)
        if made.decoder is not None:
            made.decoder.to(memory_format=memory_format)
        name = f"{layout}, {dtype_name(dtype)}"
        variants[name] = partial(made.decode, dtype=dtype), MINIMUM_DECIBELS[dtype]
    return variants


@torch.inference_mode()
def measure(variants: Mapping[str, tuple[Decode, int]], latents: Tensor, seconds: float) -> dict[str, dict[str, float]]:
    """Check every variant against the first, then time them in turns."""
    expected, measured = None, {}
    for name, (decode, minimum) in variants.items():
        images, memory = with_peak_memory(partial(decode, latents), latents.device)
        expected = images if expected is None else expected
        reached = decibels(images, expected)
        if not reached >= minimum:
            sys.exit(f"{name}: expected at least {minimum} dB against plain float32, got {reached:.1f}")
        measured[name] = {"decibels": reached, "peak_mib": memory}
    runs = {name: partial(decode, latents) for name, (decode, _) in variants.items()}
    times = time_alternating(runs, latents.device, seconds, warmup=0)
    return {name: summary(times[name]) | values for name, values in measured.items()}


def decibels(images: Tensor, expected: Tensor) -> float:
    """Peak signal-to-noise ratio of images in [-1, 1], at most 200."""
    error = (images.double() - expected.double()).square().mean().item()
    return 10 * math.log10(4 / max(error, 4e-20)) if math.isfinite(error) else math.nan


def with_peak_memory(run: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, float]:
    """The result of `run`, and the MiB that it took beyond what was there before."""
    if device.type == "cuda":
        memory = PeakMemory(device)
        return run(), memory.mebibytes() or 0.0
    Path("/proc/self/clear_refs").write_text("5")  # the peak of resident memory begins anew (Linux)
    before = resident_mib("VmRSS")
    return run(), resident_mib("VmHWM") - before


def rows(result: Mapping[str, Any]) -> list[list[str]]:
    """One line of the table for each variant; the speed as a ratio to the first."""
    case = [str(result[key]) for key in ("tokenizer", "latents", "batch")]
    first = next(iter(result["variants"].values()))["median"]
    return [
        [
            *case,
            name,
            *(f"{1e3 * each[key]:.1f}" for key in ("median", "p20", "p80")),
            f"{first / each['median']:.2f}",
            f"{each['decibels']:.0f}",
            f"{each['peak_mib']:.0f}",
        ]
        for name, each in result["variants"].items()
    ]


if __name__ == "__main__":
    main()
