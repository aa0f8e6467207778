"""The widths that convolutional autoencoders can have: numbers alone, which are checked without torch."""

from __future__ import annotations

from collections.abc import Sequence

from flowar.config import require
from flowar.system.arguments import check_each, check_integer

NORM_GROUPS = 8


def check_grouped(widths: Sequence[int]) -> None:
    """Check that an autoencoder can have these `widths`.

    Raises:
        ValueError: unless they are multiples of `NORM_GROUPS`, at least one.
    """
    check_each("widths", widths, check_integer)
    require("widths", f"multiples of {NORM_GROUPS}", widths, bool(widths) and not any(w % NORM_GROUPS for w in widths))
