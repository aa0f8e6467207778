"""A plot of quality against time per picture, with a panel per metric."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from flowar.evaluation.sweep import SECONDS, Point, Row

LINE_STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v")
PANELS_ACROSS = 4
NUMBERED = (1.0, 2.0, 5.0)  # of every power of ten on the axis of times


def sweep_plot(rows: Sequence[Row]) -> Figure:
    """Plot every metric over the time per picture, with colours for guidance scales and markers for solvers."""
    metrics = [name for name in rows[0] if name not in (*Point._fields, SECONDS)]
    down = -(-len(metrics) // PANELS_ACROSS)
    across = min(len(metrics), PANELS_ACROSS)
    figure = Figure(figsize=(4.4 * across + 1.8, 3.9 * down), layout="constrained")
    panels = [*figure.subplots(down, across, squeeze=False).flat]
    for axes, name in zip(panels, metrics, strict=False):
        draw_metric(axes, rows, name)
    for axes in panels[len(metrics) :]:
        axes.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    figure.suptitle("Quality against time; beside the points: steps of the ODE at every scale")
    return figure


def draw_metric(axes: Axes, rows: Sequence[Row], metric: str) -> None:
    """Draw a panel, with a line per guidance scale, interval and solver."""
    names = ("guidance_scale", "interval_high", "solver")
    scales, highs, solvers = (sorted({row[name] for row in rows}) for name in names)
    colours = mpl.color_sequences["tab10"]
    for scale, high, solver in product(scales, highs, solvers):
        line = [row for row in rows if tuple(row[name] for name in names) == (scale, high, solver)]
        line.sort(key=lambda row: row["steps"])
        x, y = [1e3 * row[SECONDS] for row in line], [row[metric] for row in line]
        colour, style, marker = (
            looks[values.index(value) % len(looks)]
            for looks, values, value in (
                (colours, scales, scale),
                (LINE_STYLES, highs, high),
                (MARKERS, solvers, solver),
            )
        )
        parts = [f"w = {scale:g}", f"t ≤ {high:g}" * (len(highs) > 1), solver * (len(solvers) > 1)]
        label = ", ".join(filter(None, parts))
        axes.plot(x, y, color=colour, linestyle=style, marker=marker, markersize=4, label=label)
        for row, *at in zip(line, x, y, strict=True):
            axes.annotate(f"{row['steps']:g}", (at[0], at[1]), (4, 3), textcoords="offset points", fontsize="small")
    axes.set_title(metric)
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds a picture")
    axes.xaxis.set_major_locator(LogLocator(subs=NUMBERED))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(0.1)
    axes.grid(alpha=0.3, which="both")
    axes.spines[["top", "right"]].set_visible(False)
