"""Results of training, and of its attention, as rows of a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

TRAINING_HEADER = (
    "model", "batch", "variant", "p50 ms", "p20", "p80", "images/s", "x naive", "TFLOP/s", "of peak", "MiB", "of naive",
)  # fmt: skip
ATTENTION_HEADER = ("model", "batch", "pass", "way", "ms", "p20", "p80", "TFLOP/s", "x mask")


def training_rows(result: Mapping[str, Any]) -> Iterator[list[str]]:
    """Of one case of training_speed.py; the first variant is what others are compared with."""
    variants = {name: values for name, values in result["variants"].items() if "median" in values}
    naive = next((values for name, values in variants.items() if name.startswith("naive")), None)
    for name, values in variants.items():
        rate = result["tflop"] / values["median"]
        peak = next((peak for precision, peak in result["peak_tflops"].items() if precision in name), None)
        times = [f"{1e3 * values[key]:.4g}" for key in ("median", "p20", "p80")]
        yield [
            result["model"],
            str(result["batch"]),
            name,
            *times,
            f"{result['batch'] / values['median']:.3g}",
            f"{values['speed_up']:.2f}" if naive else "",
            f"{rate:.3g}",
            "" if peak is None else f"{100 * rate / peak:.0f} %",
            f"{values['memory_mib']:.0f}",
            f"{values['memory_mib'] / naive['memory_mib']:.2f}" if naive else "",
        ]


def attention_rows(result: Mapping[str, Any]) -> Iterator[list[str]]:
    """Of one direction of one way of attention_speed.py: one row."""
    case = [str(result[key]) for key in ("model", "batch", "pass", "way")]
    times = [f"{1e3 * result[key]:.4g}" for key in ("median", "p20", "p80")]
    yield [*case, *times, f"{result['tflops']:.3g}", f"{result['speed_up']:.2f}"]
