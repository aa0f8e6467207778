"""`flowar plot`: the curves of a training run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowar.errors import DataError, MissingPackageError, first_line
from flowar.files import write_aside

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMOOTHING = 0.9  # share of the running mean kept from one row of metrics.jsonl to the next


@dataclass
class Options:
    """Draw loss, loss per scale, gradient norm and learning rate of a run as a PNG.

    Attributes:
        run: folder of the run, which holds metrics.jsonl.
        output: PNG to write; `curves.png` in the run folder if left out.
    """

    run: Path
    output: Path | None = None


def run(options: Options) -> None:
    """Draw, and say where the picture is."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError("matplotlib draws the curves: pip install flowar[train]") from error
    rows = read_metrics(options.run / "metrics.jsonl")
    figure = Figure(figsize=(11, 6), layout="constrained")
    loss, scales, norm, rate = figure.subplots(2, 2, sharex=True).flat
    draw(loss, "loss", rows, [[row["loss"]] for row in rows])
    draw(scales, "velocity error per scale", rows, [row["loss_scale"] for row in rows])
    draw(norm, "gradient norm", rows, [[row["grad_norm"]] for row in rows])
    draw(rate, "learning rate", rows, [[row["lr"]] for row in rows], smooth=False)
    scales.legend([f"scale {k}" for k in range(len(rows[0]["loss_scale"]))])
    for axes in (norm, rate):
        axes.set_xlabel("step")
    output = options.output or options.run / "curves.png"
    write_aside(output, lambda aside: figure.savefig(aside, format="png", dpi=100))
    print(f"curves of {len(rows)} rows in {output}")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl.

    Raises:
        DataError: if it is missing, empty, or a line is not JSON.
    """
    if not path.is_file():
        raise DataError(f"run: expected {path}, found none")
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    except ValueError as error:
        raise DataError(f"{path}: expected one JSON object a line ({first_line(error)})") from error
    if not rows:
        raise DataError(f"{path}: expected at least one row, found none")
    return rows


def draw(axes: Axes, title: str, rows: list[dict[str, Any]], values: list[list[float]], smooth: bool = True) -> None:
    """Curves over the steps: one per column of `values`, as a running mean unless told otherwise."""
    steps = [row["step"] for row in rows]
    for column in zip(*values, strict=True):
        axes.plot(steps, running_mean(column) if smooth else list(column))
    axes.set_title(title)
    axes.grid(alpha=0.3)


def running_mean(values: tuple[float, ...]) -> list[float]:
    """Exponentially weighted mean of the values so far, without bias towards the first."""
    means, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = SMOOTHING * total + value, SMOOTHING * weight + 1
        means.append(total / weight)
    return means
