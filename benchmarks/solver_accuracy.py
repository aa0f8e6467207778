"""How near each solver comes to the exact solution of the ODEs, for how many evaluations: a table and a plot.

    python benchmarks/solver_accuracy.py
    python benchmarks/solver_accuracy.py --model runs/fashion/model --images 40

Every schedule draws the same images from the same noise; the distance is that to Heun's solution of many steps. Coarse
scales feed finer ones, so it is the distance of the whole procedure. README.md explains the numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from models import load_model
from record import save_results, settings_of
from tables import table
from torch import Tensor

from flowar import FlowAR, Schedule
from flowar.sampling.presets import SCHEDULES
from flowar.sampling.schedule import times_denser_near_data, uniform_times
from flowar.sampling.solvers import SOLVERS
from flowar.system.files import write_aside
from flowar.system.precision import default_device
from flowar.system.progress import step_progress

GRIDS = {"uniform": uniform_times, "denser near the data": times_denser_near_data}
HEADER = ["schedule", "solver", "grid", "evaluations", "distance"]


class Case(NamedTuple):
    """A schedule to judge; presets have a name in the place of solver and grid."""

    preset: str
    solver: str
    grid: str
    schedule: Schedule


def main() -> None:
    options = parse_arguments()
    device = default_device(options.device)
    model = load_model(options.model, device)
    scales, cases = len(model.config.grids), [*every_case(model, options.steps)]
    exact = model.schedule(base=Schedule(times_denser_near_data(options.exact_steps), solver="heun"))
    results = []
    with step_progress(len(cases) + 1, None, "schedules") as advance:
        truth = draw(model, guided(model, exact), options.images)
        advance()
        for case in cases:
            latents = draw(model, case.schedule, options.images)
            distance = ((latents - truth).square().mean().sqrt() / truth.std()).item()
            evaluations = len(case.schedule.evaluations(scales - 1, scales))
            names = {"preset": case.preset, "solver": case.solver, "grid": case.grid}
            results.append(names | {"evaluations": evaluations, "distance": distance})
            advance()
    print(table(HEADER, [[*map(str, list(each.values())[:4]), f"{each['distance']:.4f}"] for each in results]))
    path = save_results(
        "solver_accuracy", device, options.output, {"settings": settings_of(options), "results": results}
    )
    picture = path.with_suffix(".png")
    write_aside(picture, lambda aside: plot(results).savefig(aside, format="png", dpi=110))
    print(path, picture)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Distance to the exact solution against evaluations, by solver.")
    parser.add_argument("--model", default="flowar-fashion", help="shipped name, folder, or preset (S B L H)")
    parser.add_argument("--images", type=int, default=20, help="one a class in turn")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 6, 8, 12, 16, 24], help="evaluations to try")
    parser.add_argument("--exact-steps", type=int, default=100, help="of Heun, two evaluations each: what is exact")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--output", type=Path, help="JSON file; by default in benchmarks/results; the plot lies beside it"
    )
    return parser.parse_args()


def every_case(model: FlowAR, counts: list[int]) -> Iterator[Case]:
    """All solvers on both grids, with as many evaluations as asked for; then the presets, at the model's guidance."""
    for grid, times in GRIDS.items():
        for solver in SOLVERS:
            per_step = len(Schedule((1, 0), solver=solver).evaluations(0, 1))
            for count in counts:
                schedule = Schedule(times(count // per_step), solver=solver)
                yield Case("", solver, grid, guided(model, schedule))
    for name in SCHEDULES:
        schedule = guided(model, model.schedule(base=name))
        yield Case(name, schedule.solver_of(0), "its own", schedule)


def guided(model: FlowAR, schedule: Schedule) -> Schedule:
    """The schedule under the guidance of the model."""
    config = model.config
    return model.schedule(None, config.guidance_scale, config.guidance_interval, schedule)


def draw(model: FlowAR, schedule: Schedule, count: int) -> Tensor:
    """Latents of as many images, in float32: what is looked for is far below the rounding of bfloat16."""
    labels = torch.arange(count) % model.config.num_classes
    return model.sample(labels, schedule=schedule, seed=0, dtype="float32", progress=False)


def plot(results: list[dict[str, Any]]) -> Any:
    """Distance against evaluations: a colour a solver, dashed on the uniform grid; presets are stars with names."""
    import matplotlib as mpl
    import matplotlib.ticker
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes, colours = figure.subplots(), dict(zip(SOLVERS, mpl.color_sequences["tab10"], strict=False))
    for grid, style in zip(GRIDS, ("--", "-"), strict=True):
        for solver, colour in colours.items():
            line = [each for each in results if (each["solver"], each["grid"]) == (solver, grid)]
            x, y = ([each[name] for each in line] for name in ("evaluations", "distance"))
            axes.plot(x, y, style, color=colour, marker="o", markersize=3, label=f"{solver}, {grid}")
    for each in results:
        if each["preset"]:
            at = (each["evaluations"], each["distance"])
            axes.plot(*at, "*", color="black", markersize=9)
            axes.annotate(each["preset"], at, (5, 4), textcoords="offset points", fontsize="small")
    axes.set(xscale="log", yscale="log", xlabel="evaluations at the last scale")
    axes.set_ylabel("distance to the exact solution, in standard deviations")
    counts = sorted({each["evaluations"] for each in results if not each["preset"]})
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="small", ncols=2)
    return figure


if __name__ == "__main__":
    main()
