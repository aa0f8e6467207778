"""The curves of one training run, or of several in one picture."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

Rows = Sequence[Mapping[str, Any]]
Values = NDArray[np.float64]
NamedRun = tuple[str, Rows, Any]  # name, rows, colour

SMOOTHING = 0.85  # what a row of metrics.jsonl counts for its neighbour, relative to the row itself
LINE_STYLES = ("-", "--", "-.", ":", (0, (1, 3)))  # of scales, where colours tell runs apart
LAST_SHARE = 0.1  # of a run's steps: what a curve over the time of the flow is the mean of
NUMBERED = (1.0, 2.0, 5.0)  # of every power of ten on a logarithmic axis
RED = "#d62728"


def training_curves(runs: Mapping[str, Rows]) -> Figure:
    """Draw loss, errors by scale and time, gradient norm, learning rate and speed of runs by name.

    A panel whose numbers no row has, as in runs of older versions, is left empty with a note.
    """
    figure = Figure(figsize=(15, 8), layout="constrained")
    loss, scales, times, norm, rate, speed = figure.subplots(2, 3).flat
    colours = mpl.color_sequences["tab10"]
    named = [(name, rows, colours[i % len(colours)]) for i, (name, rows) in enumerate(runs.items())]
    for name, rows, colour in named:
        steps = column(rows, "step")
        draw_smoothed(loss, steps, column(rows, "loss"), colour, name)
        draw_held_out(loss, rows, colour, f"{name}, held out" if len(runs) > 1 else "held out")
        draw_norm(norm, rows, colour)
        rate.plot(steps, column(rows, "lr"), color=colour)
        draw_smoothed(speed, steps, column(rows, "images_per_second"), colour)
    draw_scales(scales, named)
    if len(named) > 1 or any("held_out_loss" in row for row in named[0][1]):
        loss.legend(frameon=False)
    if len(named) > 1:
        draw_last_times(times, named)
    else:
        draw_times(times, named[0][1])
    finish(loss, "loss", "weighted squared error", log=True)
    finish(scales, "velocity error per scale", "mean squared error", log=True)
    finish(norm, "gradient norm before clipping", "mean of a row; faint: largest", log=True)
    finish(rate, "learning rate", "")
    finish(speed, " · ".join(["throughput", *speed_notes(named)]), "images/s")
    speed.set_ylim(bottom=0)
    return figure


def column(rows: Rows, name: str) -> Values:
    """One number per row, NaN where a row has none."""
    return np.array([row.get(name, math.nan) for row in rows], dtype=np.float64)


def columns(rows: Rows, name: str) -> Values:
    """One list of numbers per row, [rows, length], NaN where it is shorter; the length is 0 if no row has the list."""
    length = max((len(row[name]) for row in rows if name in row), default=0)
    lists = [[*row.get(name, [])] for row in rows]
    return np.array([[*each, *[math.nan] * (length - len(each))] for each in lists], dtype=np.float64)


def smoothed(values: Values) -> Values:
    """Means over the rows around each, with weights that fall exponentially to both sides; NaN adds nothing."""
    known = ~np.isnan(values)
    totals, weights = (decaying_sum(each) for each in (np.where(known, values, 0.0), known.astype(np.float64)))
    return np.divide(totals, weights, out=np.full(len(values), math.nan), where=weights > 0)


def decaying_sum(values: Values) -> Values:
    """The sum over all rows for each row, where a row counts SMOOTHING for every row of distance."""

    def so_far(values: Values) -> Values:
        return np.array(list(itertools.accumulate(values, lambda total, value: SMOOTHING * total + value)))

    return so_far(values) + so_far(values[::-1])[::-1] - values


def draw_smoothed(axes: Axes, steps: Values, values: Values, colour: Any, label: str | None = None) -> None:
    """Draw the values faintly, and their smoothed course."""
    axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(steps, smoothed(values), color=colour, label=label)


def draw_held_out(axes: Axes, rows: Rows, colour: Any, label: str) -> None:
    """Draw the loss on held-out images, if the run has some."""
    steps, losses = column(rows, "step"), column(rows, "held_out_loss")
    known = ~np.isnan(losses)
    if known.any():
        axes.plot(steps[known], losses[known], "o--", color=colour, markersize=3, label=label)


def draw_scales(axes: Axes, named: Sequence[NamedRun]) -> None:
    """Draw the errors by scale: of one run from dark (coarse) to light, of several runs by style of line."""
    single = len(named) == 1
    legend: list[Line2D] = []
    for _, rows, colour in named:
        errors = columns(rows, "loss_scale")
        for k, values in enumerate(errors.T):
            style: dict[str, Any] = {"linestyle": LINE_STYLES[k % len(LINE_STYLES)], "color": colour}
            if single:
                style = {"color": mpl.colormaps["viridis"](0.9 * k / max(1, errors.shape[1] - 1))}
            axes.plot(column(rows, "step"), smoothed(values), **style)
            if k == len(legend):
                legend.append(Line2D([], [], label=f"scale {k}", **(style if single else style | {"color": "grey"})))
    axes.legend(handles=legend, frameon=False, fontsize="small", ncols=2)


def draw_norm(axes: Axes, rows: Rows, colour: Any) -> None:
    """Draw the mean and the largest norm, and a mark at the top for every row with skipped steps."""
    steps = column(rows, "step")
    axes.plot(steps, column(rows, "grad_norm_max"), color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(steps, smoothed(column(rows, "grad_norm")), color=colour)
    skipped = np.nan_to_num(column(rows, "skipped_steps"))
    if skipped.any():
        marks = steps[skipped > 0]
        top = axes.get_xaxis_transform()  # height as a share of the axes
        label = f"{skipped.sum():.0f} skipped steps"
        axes.plot(marks, np.full(len(marks), 0.97), "v", color=RED, transform=top, clip_on=False, label=label)
        axes.legend(frameon=False)


def draw_times(axes: Axes, rows: Rows) -> None:
    """Draw the error of one run at every time of the flow, over the steps."""
    errors, steps = columns(rows, "loss_time"), column(rows, "step")
    if not (errors > 0).any():
        return blank(axes, "velocity error per time")
    errors = np.stack([smoothed(values) for values in errors.T])
    positive = errors[errors > 0]
    edges = np.concatenate(([0.0], steps))
    bins = np.linspace(0, 1, len(errors) + 1)
    mesh = axes.pcolormesh(edges, bins, errors, norm=LogNorm(positive.min(), positive.max()), rasterized=True)
    marks: dict[str, Any] = {"ticks": LogLocator(subs=NUMBERED), "format": "{x:g}"}
    axes.figure.colorbar(mesh, ax=axes, label="mean squared error", **marks).minorticks_off()
    finish(axes, "velocity error per time", "t (0: image, 1: noise)", grid=False)


def draw_last_times(axes: Axes, named: Sequence[NamedRun]) -> None:
    """Draw the mean error of several runs at every time of the flow, in the last part of each run."""
    title = f"velocity error per time, last {LAST_SHARE:.0%} of the steps"
    for _, rows, colour in named:
        errors, steps = columns(rows, "loss_time"), column(rows, "step")
        late = np.ma.masked_invalid(errors[steps > (1 - LAST_SHARE) * steps[-1]])
        if late.count():
            bins = (np.arange(late.shape[1]) + 0.5) / late.shape[1]
            axes.plot(bins, late.mean(0), "o-", color=colour, markersize=3)
    if not axes.lines:
        return blank(axes, title)
    finish(axes, title, "mean squared error", log=True, x="t (0: image, 1: noise)")


def speed_notes(named: Sequence[NamedRun]) -> list[str]:
    """The share of the hardware's peak, the memory and the time spent waiting for data of a single run, where known."""
    if len(named) > 1:
        return []
    rows = named[0][1]
    mfu, memory = column(rows, "mfu"), column(rows, "peak_memory_mib")
    waited, seconds = (np.nansum(column(rows, name)) for name in ("data_seconds", "seconds"))
    notes = []
    if not np.isnan(mfu).all():
        notes.append(f"MFU {np.nanmedian(mfu):.1%}")
    if not np.isnan(memory).all():
        notes.append(f"{np.nanmax(memory) / 1024:.3g} GiB")
    if seconds:
        notes.append(f"{waited / seconds:.1%} waiting for data")
    return notes


def blank(axes: Axes, title: str) -> None:
    """Leave a panel empty, with a note that nothing was recorded."""
    axes.set_title(title)
    axes.set_axis_off()
    axes.text(0.5, 0.5, "not recorded", ha="center", va="center", transform=axes.transAxes, color="grey")


def finish(axes: Axes, title: str, unit: str, log: bool = False, grid: bool = True, x: str = "step") -> None:
    """Set the title, the units and the scales of a panel."""
    axes.set_title(title)
    axes.set_ylabel(unit)
    axes.set_xlabel(x)
    if x == "step":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=NUMBERED))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 5))
    if grid:
        axes.grid(alpha=0.3, which="both" if log else "major")
    axes.spines[["top", "right"]].set_visible(False)
