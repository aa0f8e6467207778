"""The machine and the process: files, hardware, threads, precision, ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowar.system.lazy import lazy_names

if TYPE_CHECKING:
    from flowar.system.autotune import autotune_enabled, set_autotune

__all__ = ["autotune_enabled", "set_autotune"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "autotune": ["autotune_enabled", "set_autotune"],
    },
)
