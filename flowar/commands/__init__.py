"""The subcommands, one per module: a dataclass `Options`, and `run(options)`, which says with `say` what it did."""

from __future__ import annotations

from flowar.errors import escaped


def say(*lines: str) -> None:
    """Print lines at once, whatever control characters the names in them have."""
    print(*map(escaped, lines), sep="\n", flush=True)
