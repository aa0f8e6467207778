"""The comparison of two evaluation cards: which metrics differ by more than chance, and which settings differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from flowar.errors import FlowARError, shown
from flowar.evaluation.card import bias_note, biased
from flowar.evaluation.measure import NORMAL_95
from flowar.evaluation.settings import differences

COMPARABLE = ("extractor.name", "extractor.weights", "extractor.resizing", "reference.fingerprint")


def compare_cards(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Compare two cards: a line per metric that says whether they differ by more than chance, then one per setting.

    A difference is more than chance if it exceeds 1.96 of its standard errors, computed as if the images of both cards
    were independent. With equal seeds they are not, and the verdict is on the safe side.

    Raises:
        FlowARError: for what is no card, and for cards of different extractors or references, whose metrics cannot be
            compared.
    """
    for card in (first, second):
        if not isinstance(card, Mapping) or not {"settings", "metrics"} <= {*card}:
            raise FlowARError(f"compare: expected cards with settings and metrics, got {shown(card)}")
    different = differences(first["settings"], second["settings"])
    for name in COMPARABLE:
        if name in different:
            one, other = different[name]
            raise FlowARError(f"compare: expected cards of the same {name.split('.')[0]}, got {name} {one} and {other}")
    lines = [*verdicts(first["metrics"], second["metrics"])]
    return lines + [f"{name}: {one} | {other}" for name, (one, other) in different.items()]


def verdicts(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for every metric that both cards have."""
    for name in first:
        if name not in second:
            continue
        one, other = first[name], second[name]
        difference = other["value"] - one["value"]
        values = f"{name}: {one['value']:.5g} and {other['value']:.5g}, difference {difference:+.3g}"
        errors = one.get("error"), other.get("error")
        if errors[0] is None or errors[1] is None:
            yield f"{values}: no intervals to judge by"
            continue
        margin = NORMAL_95 * math.hypot(*errors)
        yield f"{values} (chance: up to {margin:.3g}): {judged(one, other, margin)}"


def judged(one: Mapping[str, Any], other: Mapping[str, Any], margin: float) -> str:
    """The verdict on two values of a metric, and how far it is to be trusted where images are few."""
    few = [each for each in (one, other) if biased(each)]
    images = [each.get("images", "unknown") for each in (one, other)]
    if few and images[0] != images[1]:
        counts = f"{images[0]} and {images[1]} images for {few[0]['features']} features"
        return f"no verdict, as {counts} bias it upwards, each differently"
    return verdict(other["value"] - one["value"], margin, one["better"]) + (bias_note(few[0]) if few else "")


def verdict(difference: float, margin: float, better: str) -> str:
    """The verdict on the second card's value minus the first's."""
    if abs(difference) <= margin:
        return "no more than chance"
    return "the second is better" if (difference > 0) == (better == "higher") else "the first is better"
