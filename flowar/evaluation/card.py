"""The evaluation card: settings and metrics of an evaluation, as JSON and as Markdown."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch

from flowar.errors import FlowARError, shown
from flowar.evaluation.settings import flatten
from flowar.system.arguments import check_path
from flowar.system.files import write_aside, write_json
from flowar.system.markdown import plain
from flowar.system.rules import Index, Measurement, Name
from flowar.system.structured import as_record, read_json

FORMAT = "flowar-evaluation-card"
JSON_FILE, MARKDOWN_FILE = "card.json", "card.md"


class ShownMetric(TypedDict):
    """What the tables of a card show of one metric."""

    value: Measurement
    better: Literal["lower", "higher"]
    error_by: str
    interval: tuple[Measurement, Measurement] | None


class Metric(ShownMetric, total=False):
    """What a card says of one metric, see `Measurement.record`."""

    error: Measurement | None
    images: Index
    features: Index


class Settings(TypedDict, total=False):
    """What is read of the settings in a card."""

    model: Mapping[str, Any]
    extractor: Mapping[str, Any]
    reference: Mapping[str, Any]


class Card(TypedDict):
    """What `card.json` holds."""

    settings: Settings
    metrics: Mapping[Name, Metric]
    unavailable: Mapping[Name, str]
    warnings: list[str]


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Write `card.json` and `card.md`.

    Raises:
        OSError: if writing fails; files that were there stay as they were.
    """
    write_json(folder / JSON_FILE, {"format": FORMAT} | dict(card))
    write_aside(folder / MARKDOWN_FILE, lambda aside: aside.write_text(markdown(card), encoding="utf-8"))


def read_card(path: str | Path) -> dict[str, Any]:
    """Read the card in a file, or in a folder that `flowar evaluate` wrote.

    Raises:
        FlowARError: if there is none, or the file is something else.
    """
    path = check_path("card", path)
    path = path / JSON_FILE if path.is_dir() else path
    card = read_json(path, dict, FlowARError, finite=False)
    if card.get("format") != FORMAT:
        got = shown(card.get("format"))
        raise FlowARError(f"{path}: expected an evaluation card of flowar evaluate, got format {got}")
    as_record(card, Card, str(path), FlowARError)
    return card


def markdown(card: Mapping[str, Any]) -> str:
    """The card as Markdown: metrics first, then every setting."""
    lines = ["# Evaluation", "", *metrics_table(card), ""]
    lines += [f"Warning: {plain(warning)}" for warning in card["warnings"]]
    lines += ["", "## Settings", "", "| setting | value |", "|---|---|"]
    lines += [f"| {plain(name)} | {plain(value)} |" for name, value in flatten(card["settings"]).items()]
    return "\n".join(lines) + "\n"


def metrics_table(card: Mapping[str, Any]) -> list[str]:
    """The lines of a Markdown table of the metrics."""
    lines = ["| metric | value | 95 % interval | better | interval by |", "|---|---|---|---|---|"]
    for name, found in card["metrics"].items():
        interval = "not computed" if found["interval"] is None else "{:.5g} to {:.5g}".format(*found["interval"])
        words = [plain(word) for word in (name, found["better"], found["error_by"])]
        lines.append(f"| {words[0]} | {found['value']:.5g}{bias_note(found)} | {interval} | {words[1]} | {words[2]} |")
    return lines + [f"| {plain(name)} | none: {plain(reason)} | | | |" for name, reason in card["unavailable"].items()]


def biased(metric: Mapping[str, Any]) -> bool:
    """Whether a metric of a card is a distance of no more images than features; of older cards it is not known."""
    return bool("images" in metric and "features" in metric and metric["images"] <= metric["features"])


def bias_note(metric: Mapping[str, Any]) -> str:
    """What is to be said behind the value of a metric; nothing if it is not biased."""
    return f"; biased upwards, {metric['images']} images for {metric['features']} features" if biased(metric) else ""


def code_record() -> dict[str, str]:
    """The versions of the code, of Python and of torch, and what serves the ops."""
    from flowar import __version__, ops

    return {
        "flowar": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ops": ops.implementation(),
    }


def commit() -> str:
    """The commit of the checkout that the package is used from, and whether it was changed; "none" outside of one."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return "none"
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--match="]
    try:
        return subprocess.run(describe, cwd=checkout, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or a folder that it does not trust
        return "unknown"
