"""Tables, figures and statements of results: in README.md, between markers, and in figures/."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.budgets import Budget
from experiments.catalog import EXPERIMENTS, Experiment
from experiments.readings import READINGS
from experiments.results import Agreement, Result, Rows, results
from flowar.errors import DataError
from flowar.system.files import write_aside

COLUMNS = ("variant", "parameters", "paper: FID", "FD-fashion", "class agreement")


def write_report(folder: Path, budget_name: str, budget: Budget, rows: Rows) -> None:
    """Write what the rows say to the README of `folder`, and a figure an experiment.

    Raises:
        DataError: if the README has no markers for the budget.
    """
    sections = []
    for experiment in EXPERIMENTS:
        found = results(experiment, budget, rows)
        if found is None:
            sections.append(f"### {experiment.title}\n\nNot all of its rows are there yet.")
            continue
        path = folder / "figures" / f"{budget_name}-{experiment.name}.png"
        write_aside(path, partial(figure(experiment, found).savefig, format="png", dpi=100))
        reading = READINGS[budget_name].get(experiment.name, "")
        sections.append(section(experiment, found, reading, f"figures/{path.name}"))
    insert(folder / "README.md", budget_name, "\n\n".join(sections))


def insert(readme: Path, budget_name: str, text: str) -> None:
    """Put `text` between the markers of a budget."""
    begin, end = f"<!-- results {budget_name} -->", f"<!-- end of results {budget_name} -->"
    page = readme.read_text()
    if begin not in page or end not in page:
        raise DataError(f"{readme}: expected the markers {begin} and {end}, found none")
    head, tail = page.split(begin)[0], page.split(end)[1]
    write_aside(readme, lambda aside: aside.write_text(f"{head}{begin}\n\n{text}\n\n{end}{tail}"))


def section(experiment: Experiment, found: Sequence[Result], reading: str, picture: str) -> str:
    """Title, note, table, the computed statement, what we make of it, and figure."""
    agreement = Agreement.of(found)
    statement = agreement.statement() if agreement else "The paper has no order for these."
    words = [experiment.note, table(found), statement, reading]
    parts = [f"### {experiment.title}", *words, f"![{experiment.title}]({picture})"]
    return "\n\n".join(filter(None, parts))


def table(found: Sequence[Result]) -> str:
    """Mean and standard deviation over seeds; ranks, 1 for the best, of the paper's numbers and of ours."""
    papers = [each.variant.paper for each in found]
    distances = [each.mean("frechet_distance") for each in found]
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
    for result, paper, distance in zip(found, papers, distances, strict=True):
        known = sorted(each for each in papers if each is not None)
        cells = (
            result.variant.name,
            f"{result.rows[0]['parameters']:,}",
            "" if paper is None else f"{paper:.2f} ({known.index(paper) + 1})",
            f"{distance:.1f} ± {result.spread('frechet_distance'):.1f} ({sorted(distances).index(distance) + 1})",
            f"{result.mean('agreement'):.3f} ± {result.spread('agreement'):.3f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def figure(experiment: Experiment, found: Sequence[Result]) -> Figure:
    """Fréchet distances, a point a seed and a bar for the mean; beside them the paper's numbers, if it has some."""
    papers = [math.nan if each.variant.paper is None else each.variant.paper for each in found]
    panels = 1 if all(map(math.isnan, papers)) else 2
    picture = Figure(figsize=(5 * panels + 1, 0.5 * len(found) + 1.2), layout="constrained")
    axes = picture.subplots(1, panels, sharey=True, squeeze=False)[0]
    draw_bars(axes[0], found, [each.mean("frechet_distance") for each in found], "FD-fashion")
    for place, each in enumerate(found):
        values = each.values("frechet_distance")
        axes[0].plot(values, [place] * len(values), "o", color="black", markersize=4)
    if panels == 2:
        draw_bars(axes[1], found, papers, "the paper's FID")
    picture.suptitle(f"{experiment.title} (smaller is better)")
    return picture


def draw_bars(axes: Axes, found: Sequence[Result], values: Sequence[float], label: str) -> None:
    """One bar a variant, the first one on top."""
    axes.barh(range(len(found)), values, color="#9ecae1")
    axes.set_yticks(range(len(found)), [each.variant.name for each in found])
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlabel(label)
