"""Editing without training: what is known of a picture is pinned at every scale, and the rest is sampled beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowar.system.lazy import lazy_names

if TYPE_CHECKING:
    from flowar.editing.edits import inpaint, interpolate, outpaint, super_resolve, vary

__all__ = ["inpaint", "interpolate", "outpaint", "super_resolve", "vary"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "edits": ["inpaint", "interpolate", "outpaint", "super_resolve", "vary"],
    },
)
