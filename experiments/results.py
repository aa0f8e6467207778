"""Rows of results, one for every variant and seed, in a JSON-lines file; and what they say."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from experiments.budgets import Budget
from experiments.catalog import Experiment, Variant
from flowar.system.files import write_aside

Row = dict[str, Any]
CLEAR = 2.0  # standard errors of a difference


class Rows:
    """The rows of one file, which is whole at any moment."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def find(self, variant: Variant, budget: Budget, seed: int) -> Row | None:
        """The row of a variant and seed, if it is finished."""
        recipe = json.loads(json.dumps(variant.recipe(budget)))
        return next((row for row in self.rows if row["recipe"] == recipe and row["seed"] == seed), None)

    def add(self, row: Row) -> None:
        """Write one more."""
        self.rows.append(json.loads(json.dumps(row)))
        text = "".join(f"{json.dumps(each)}\n" for each in self.rows)
        write_aside(self.path, lambda aside: aside.write_text(text))


@dataclass(frozen=True)
class Result:
    """The rows of one variant, a seed each."""

    variant: Variant
    rows: Sequence[Row]

    def values(self, name: str) -> list[float]:
        """One number of every seed."""
        return [row[name] for row in self.rows]

    def mean(self, name: str) -> float:
        return fmean(self.values(name))

    def spread(self, name: str) -> float:
        """Standard deviation over seeds; NaN for one seed."""
        values = self.values(name)
        return stdev(values) if len(values) > 1 else math.nan


def results(experiment: Experiment, budget: Budget, rows: Rows) -> list[Result] | None:
    """Those of an experiment; None as long as a row is missing."""
    found = [
        Result(each, [row for seed in budget.seeds if (row := rows.find(each, budget, seed))])
        for each in experiment.variants
    ]
    return found if all(len(each.rows) == len(budget.seeds) for each in found) else None


@dataclass(frozen=True)
class Agreement:
    """How the order of Fréchet distances goes with the paper's.

    Attributes:
        pairs: of variants that the paper orders.
        same: of them, in the paper's order by their means.
        clear: of those, by more than `CLEAR` standard errors of the difference over seeds.
        against: in the other order, by as much.
        rank_correlation: Kendall's, of each seed.
    """

    pairs: int
    same: int
    clear: int
    against: int
    rank_correlation: list[float]

    @staticmethod
    def of(found: Sequence[Result]) -> Agreement | None:
        """That of an experiment's results; None where the paper orders no two of the variants."""
        known = [each for each in found if each.variant.paper is not None]
        pairs = [pair for pair in combinations(known, 2) if pair[0].variant.paper != pair[1].variant.paper]
        if not pairs:
            return None
        gains = [ordered_as_in_paper(a, b) for a, b in pairs]
        means = [fmean(each) for each in gains]
        sure = [abs(mean) > CLEAR * standard_error(each) for mean, each in zip(means, gains, strict=True)]
        seeds = range(len(gains[0]))
        return Agreement(
            len(pairs),
            sum(mean > 0 for mean in means),
            sum(mean > 0 and clear for mean, clear in zip(means, sure, strict=True)),
            sum(mean < 0 and clear for mean, clear in zip(means, sure, strict=True)),
            [fmean(math.copysign(1, each[seed]) for each in gains) for seed in seeds],
        )

    def statement(self) -> str:
        """In words."""
        if self.same == self.pairs:
            verdict = "Agrees with the paper's order"
        elif self.against:
            verdict = "Does not agree with the paper's order"
        else:
            verdict = "Neither agrees with the paper's order nor clearly contradicts it"
        by_seed = ", ".join(f"{each:.2f}" for each in self.rank_correlation)
        return (
            f"{verdict}: {self.same} of {self.pairs} pairs of variants are in it, {self.clear} of them by more than "
            f"{CLEAR:g} standard errors; {self.against} are clearly in the opposite one. Kendall's rank correlation "
            f"by seed: {by_seed}."
        )


def ordered_as_in_paper(first: Result, second: Result) -> list[float]:
    """By seed, how much better the variant is that the paper has better: negative where the order is the other."""
    assert first.variant.paper is not None
    assert second.variant.paper is not None
    sign = math.copysign(1, second.variant.paper - first.variant.paper)
    values = zip(first.values("frechet_distance"), second.values("frechet_distance"), strict=True)
    return [sign * (b - a) for a, b in values]


def standard_error(values: Sequence[float]) -> float:
    """Of the mean; infinite for one value, of which nothing is known."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
