"""The metrics of a run: the numbers of an interval of steps, written to `metrics.jsonl` and to TensorBoard.

TensorBoard is left out where it is not installed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

import torch
from torch import Tensor

from flowar.config import FlowARConfig
from flowar.errors import DataError
from flowar.model import Loss
from flowar.networks.flops import training_flops
from flowar.system.files import write_aside
from flowar.system.hardware import peak_flops, peak_memory_mib, widest_float
from flowar.system.installation import install_command
from flowar.system.rules import Measurement, Range
from flowar.system.structured import parse_json, read_text, row_text

log = logging.getLogger(__name__)

TIME_BINS = 10  # of [0, 1]

Measured = Measurement | None


class Step(TypedDict):
    """What every row of `metrics.jsonl` has."""

    step: Annotated[float, Range(0, 1e15)]


class MetricsRow(Step, total=False):
    """A row of `metrics.jsonl`, of which older versions have less; beside what is read of it there may be more."""

    loss: Measured
    loss_scale: list[Measured]
    loss_time: list[Measured]
    loss_scale_time: list[list[Measured]]
    held_out_loss: Measured
    grad_norm: Measured
    grad_norm_max: Measured
    skipped_steps: Measured
    lr: Measured
    images_per_second: Measured
    tflops_per_device: Measured
    mfu: Measured
    peak_memory_mib: Measured
    seconds: Measured
    data_seconds: Measured


class StepMetrics:
    """Sums over an interval of steps, kept on the device, so that nothing waits for a GPU before `row`.

    Losses are sums over images, which add up over ranks (`sums`). Gradient norms and skipped steps are the same on all
    ranks.
    """

    def __init__(self, config: FlowARConfig, device: torch.device) -> None:
        self.config, self.device, self.dtype = config, device, widest_float(device)
        self.scales = len(config.grids)
        self.weights = torch.tensor(config.scale_lengths, dtype=torch.float64) / config.scale_lengths[-1]
        self.bins = torch.arange(TIME_BINS, device=device)
        self.lr = 0.0  # of the last step
        self.reset()

    def reset(self) -> None:
        """Begin a new interval."""
        shape = (2, self.scales, TIME_BINS)  # squared errors and how many there were, by scale and time
        self.binned = torch.zeros(shape, dtype=self.dtype, device=self.device)
        # Steps taken, their gradient norms, the largest of them, and steps skipped.
        self.steps = torch.zeros(4, dtype=self.dtype, device=self.device)

    @torch.no_grad()
    def update_loss(self, out: Loss, times: Tensor) -> None:
        """Add one batch, or one of those whose gradients a step accumulates; times [K, B] in [0, 1]."""
        in_bin = (times.T * TIME_BINS).long().clamp_(max=TIME_BINS - 1)[..., None] == self.bins  # [B, K, bins]
        self.binned[0] += torch.where(in_bin, out.per_image.to(self.dtype)[..., None], 0).sum(0)
        self.binned[1] += in_bin.sum(0)

    @torch.no_grad()
    def update_step(self, grad_norm: Tensor, skipped: Tensor, lr: float) -> None:
        """Add one optimizer step: the gradient norm before clipping, and whether it was skipped (both scalars)."""
        norm = torch.where(skipped, 0, grad_norm.to(self.dtype))
        largest = torch.maximum(self.steps[2], norm)
        self.steps = torch.stack((self.steps[0] + ~skipped, self.steps[1] + norm, largest, self.steps[3] + skipped))
        self.lr = lr

    def weighted(self, per_scale: Sequence[float]) -> float:
        """The loss for errors by scale, under the paper's weights in every run, so that runs can be compared."""
        return float((torch.tensor(per_scale, dtype=torch.float64) * self.weights).sum())

    def sums(self) -> Tensor:
        """The sums to add up over ranks (`all_reduce`) before `row`: [2 * K * 10], float64 if the device has it."""
        return self.binned.flatten().clone()

    def record(self, sums: Tensor) -> dict[str, Any]:
        """Plain data for `restore`, from the sums over all ranks."""
        return {"sums": sums.tolist(), "steps": self.steps.tolist(), "lr": self.lr}

    def restore(self, record: Mapping[str, Any], with_sums: bool) -> None:
        """Go on from a record; the sums over all ranks are to be restored on one of them."""
        self.steps, self.lr = self.steps.new_tensor(record["steps"]), record["lr"]
        if with_sums:
            self.binned = self.binned.new_tensor(record["sums"]).view_as(self.binned)

    def row(
        self,
        sums: Tensor,
        seconds: float,
        images: int,
        dtype: torch.dtype = torch.float32,
        data_seconds: float = 0.0,
        world_size: int = 1,
    ) -> dict[str, Any]:
        """The metrics of the interval, numbers and lists of numbers; NaN if a number is unknown.

        Args:
            sums: `sums` added up over all ranks.
            seconds: the duration of the interval.
            images: the number of images that all ranks trained on together.
            dtype: the dtype of the matrix products.
            data_seconds: the part of `seconds` that this rank waited for data.
            world_size: the number of devices that share the work.
        """
        errors, counts = sums.cpu().view(2, self.scales, TIME_BINS)
        taken, norms, largest, skipped = self.steps.tolist()
        per_scale = (errors.sum(1) / counts.sum(1)).tolist()
        flops = training_flops(self.config, images) / seconds / world_size
        peak = peak_flops(self.device, dtype)
        return {
            "loss": self.weighted(per_scale),
            "loss_scale": per_scale,
            "loss_time": (errors.sum(0) / counts.sum(0)).tolist(),
            "loss_scale_time": (errors / counts).tolist(),
            "grad_norm": norms / taken if taken else math.nan,
            "grad_norm_max": largest if taken else math.nan,
            "skipped_steps": int(skipped),
            "lr": self.lr,
            "images_per_second": images / seconds,
            "tflops_per_device": flops / 1e12,
            "mfu": flops / peak if peak else math.nan,
            "peak_memory_mib": peak_memory_mib(self.device),
            "seconds": seconds,
            "data_seconds": data_seconds,
        }


class MetricsWriter:
    """Appends rows to `metrics.jsonl`, and mirrors them to TensorBoard."""

    def __init__(self, folder: Path, step: int) -> None:
        """Open the file and drop its rows after `step`, which an interrupted run left."""
        self.path = folder / "metrics.jsonl"
        written = step and self.path.exists() and self.path.stat().st_size
        lines = read_text(self.path, "rows of JSON", DataError).split("\n") if written else []
        kept = [f"{row}\n" for row in lines if logged_step(row) <= step]
        write_aside(self.path, lambda aside: aside.write_text("".join(kept)))
        self.file = self.path.open("a")
        self.board = open_board(folder / "tensorboard", step)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Write a row of numbers or (nested) lists of numbers; what is not finite becomes null."""
        self.file.write(row_text({"step": step, **values}))
        self.file.flush()
        if self.board is not None:
            for name, number in named_numbers(values):
                self.board.add_scalar(name, number, step)

    def image(self, step: int, name: str, path: Path) -> None:
        """Show the picture at `path` in TensorBoard."""
        if self.board is not None:
            import numpy as np
            from PIL import Image

            self.board.add_image(name, np.asarray(Image.open(path).convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        self.file.close()
        if self.board is not None:
            self.board.close()


def named_numbers(values: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield the finite numbers in `values` with names such as "loss_scale/0"."""
    if isinstance(values, (Mapping, list)):
        for key, value in values.items() if isinstance(values, Mapping) else enumerate(values):
            yield from named_numbers(value, f"{name}/{key}" if name else str(key))
    elif math.isfinite(values):
        yield name, values


def logged_step(row: str) -> float:
    """The step of a row; infinite for the row that a killed run did not finish."""
    try:
        return float(parse_json(row)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def open_board(folder: Path, step: int) -> Any:
    """A TensorBoard writer that goes on after `step`, or None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        log.info("TensorBoard is not installed (%s); metrics go to metrics.jsonl alone", install_command("train"))
        return None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
