"""`flowar info`: what is installed, what the machine can do, what a model is made of."""

from __future__ import annotations

from dataclasses import dataclass

@dataclass
class Options:
    """What is installed, what the machine can do, and what a model is made of.

    Attributes:
        model: shipped name, folder, or Hub id to describe as well.
        json: print JSON.
    """

    model: str | None = None
    json: bool = False


def run(options: Options) -> None:
    """Print the facts, one a line or as JSON."""
