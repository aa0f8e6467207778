"""Pictures: tensors as PIL images, many of them in one, and files that say what they show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowar.system.lazy import lazy_names

if TYPE_CHECKING:
    from flowar.images.files import read_record, write_picture
    from flowar.images.grid import image_grid, to_pil

__all__ = ["image_grid", "read_record", "to_pil", "write_picture"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "files": ["read_record", "write_picture"],
        "grid": ["image_grid", "to_pil"],
    },
)
