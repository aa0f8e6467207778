"""Figures of matplotlib as pictures."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image


def rendered(figure: Figure) -> Image:
    """The figure as an RGB image."""
    from PIL import Image

    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return Image.open(buffer).convert("RGB")
