"""The widths and channels of new tokenizers: numbers alone, which are checked without torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from flowar.config import Grid, require
from flowar.tokenizers.widths import check_grouped

# By resolution, finest first: a tokenizer takes as many as its stride asks for.
DEFAULT_WIDTHS = {
    "conv": (16, 48, 96, 192, 192),
    "AutoencoderKL": (16, 32, 64, 128, 128),
    "AutoencoderDC": (16, 32, 64, 128, 256),
}
STRIDES = (16, 8, 4)  # of defaults, where they fit
SMALLEST_GRID = 7  # positions along a side that a default stride leaves
MOST_CHANNELS = 16


def default_widths(kind: str, size: Grid) -> list[int]:
    """The widths for images of `size`: for the largest of the strides 16, 8 and 4 that leaves a grid of 7, or for 2."""
    fitting = (
        stride for stride in STRIDES if all(side % stride == 0 and side // stride >= SMALLEST_GRID for side in size)
    )
    stride = next(fitting, 2)
    return [*DEFAULT_WIDTHS[kind][: stride.bit_length()]]


def default_channels(widths: Sequence[int]) -> int:
    """The default number of latent channels: twice the stride, at most 16."""
    return min(MOST_CHANNELS, 2 ** len(widths))


def check_widths(kind: str, channels: int, widths: Sequence[int]) -> None:
    """Check that a tokenizer of that `kind` can have these `channels` and `widths`.

    Raises:
        ValueError: naming what was expected and what came.
    """
    check_grouped(widths)
    if kind == "AutoencoderDC":  # its shortcuts fold 2 x 2 pixels into channels, and average those to the next width
        folds = all(4 * fine % coarse == 0 for fine, coarse in pairwise(widths)) and widths[-1] % channels == 0
        expected = f"each to divide four times the one before, and the last to be a multiple of {channels} channels"
        require("widths", f"{expected} ({kind})", widths, folds)
