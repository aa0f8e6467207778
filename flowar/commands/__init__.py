"""The subcommands, one per module: a dataclass `Options`, and `run(options)`, which says with `say` what it did."""

from __future__ import annotations

from typing import TextIO

from flowar.errors import escaped


def say(*lines: str, to: TextIO | None = None) -> None:
    """Print lines at once, on stdout or to another stream, whatever control characters the names in them have."""
    print(*map(escaped, lines), sep="\n", flush=True, file=to)
