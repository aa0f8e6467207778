"""What we make of each experiment's results, by budget: written by hand, below its table in README.md.

Rows that change want to be read again.
"""

from __future__ import annotations

READINGS: dict[str, dict[str, str]] = {
    "small": {},
    "gpu": {},
}
